"""Builds the package, and runs operators' commands with it in a new system: `make deb-test`."""

import argparse
import filecmp
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opq_twisted import __version__
from opq_twisted.archive.name import UpdateName
from tests.deb.root import Root
from tests.helpers.archives import make_archive
from tests.vm.box import free_port
from tests.vm.cache import ROOT
from tests.vm.needs import find
from tests.vm.report import Broken, must, say
from tests.vm.server import answer

_PROGRAMS = {
    "dh": "debhelper",
    "dpkg-buildpackage": "dpkg-dev",
    "lintian": "lintian",
    "mmdebstrap": "mmdebstrap",
    "setpriv": "util-linux",
}

_PACKAGE = "opq-update-server"
_HOME = f"/usr/lib/{_PACKAGE}"
_CONFIGURATION = f"/etc/default/{_PACKAGE}"
_COMPLETION = "/usr/share/bash-completion/completions/opq-release"
_UPDATES = "/var/opq/box-updates"
_ARCHIVE = str(UpdateName(1547860803))

_NEWER = f"{__version__}.1"
_ADDED = "\n# This line is new.\n"

#: The sources of the package.
_SOURCES = (
    *("opq_twisted", "twisted", "deploy", "docs"),
    *("LICENSE", "README.md", "pyproject.toml", "setup.py"),
    *("requirements.txt", "requirements.lock", "requirements-build.lock"),
    *("requirements-fleet.txt", "requirements-fleet.lock"),
)

#: The files outside the package that apt may change.
_NOT_OURS = r"/(proc|dev|sys|tmp|run|var/cache|var/lib/(apt|dpkg)|var/log)(/|$)|/etc/.*-$"


def main() -> int:
    """Run the whole test; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.deb", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".deb", help="for what is kept")
    parser.add_argument("--only", choices=["build"], help="build it, and let lintian look at it")
    options = parser.parse_args()
    folder = options.folder.absolute()
    if lacking := sorted({name for program, name in _PROGRAMS.items() if not find(program)}):
        print(f"deb-test needs packages that are not installed: {', '.join(lacking)}.")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            package = build_twice(Path(scratch))
            if options.only != "build":
                newer = build(newer_sources(Path(scratch, "newer")), Path(scratch, "three"))
                with Root(folder) as root:
                    live(root, package, newer)
    except Broken as error:
        print(f"failed: {error}")
        return 1
    return 0


def build_twice(folder: Path) -> Path:
    """Build the package twice, compare both, and run lintian."""
    package, again = build(ROOT, folder / "one"), build(ROOT, folder / "two")
    must(filecmp.cmp(package, again, shallow=False), "Built twice, the package is not the same.")
    lint = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", str(package)],
        stdout=subprocess.PIPE,
        text=True,
    )
    must(lint.returncode == 0, f"lintian finds errors:\n{lint.stdout}")
    say(f"passed: built twice, the same {package.stat().st_size / 1e6:.1f} MB; no errors")
    say(lint.stdout.strip())
    return package


def build(sources: Path, folder: Path) -> Path:
    """Build the package of these sources."""
    ended = subprocess.run(
        [str(sources / "deploy/server/build-deb"), str(folder)], capture_output=True, text=True
    )
    must(ended.returncode == 0, f"The package is not built:\n{ended.stderr[-3000:]}")
    return Path(ended.stdout.strip())


def newer_sources(folder: Path) -> Path:
    """Copy the sources, and change the version and the configuration in the copy."""
    folder.mkdir()
    for name in _SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        else:
            shutil.copy(ROOT / name, folder / name)
    version = folder / "opq_twisted" / "__init__.py"
    version.write_text(version.read_text().replace(__version__, _NEWER))
    with (folder / f"deploy/server/debian/{_PACKAGE}.default").open("a") as file:
        file.write(_ADDED)
    return folder


def live(root: Root, package: Path, newer: Path) -> None:
    """Install, start, upgrade, remove, purge."""
    before = state(root)
    install(root, package)
    port = free_port()
    root.run(f"sed -i 's/^PORT=.*/PORT=tcp:{port}:interface=127.0.0.1/' {_CONFIGURATION}")
    starts(root, port)
    root.run(f"bash -c '. {_COMPLETION} && complete -p opq-release'")
    say("passed: installed, and started as the unit has it")
    install(root, newer)
    upgraded(root)
    starts(root, port)
    say("passed: upgraded, with the changed configuration")
    removed(root)
    say("passed: removed, and the configuration and the archives are left")
    said = root.run(f"apt-get purge -y {_PACKAGE}")
    must("is not empty: it is kept" in said, "The purge does not say that it leaves archives.")
    must(root.run(f"ls {_UPDATES}").strip() == _ARCHIVE, "The purge has taken archives.")
    root.run(f"rm {_UPDATES}/{_ARCHIVE}")
    install(root, newer)
    root.run(f"apt-get purge -y {_PACKAGE}")
    must_be(before, state(root))
    say("passed: purged, and nothing is left")


def state(root: Root) -> set[str]:
    """List the files of the system, its users and its groups."""
    files = root.run("find / -xdev").splitlines()
    users = root.run("cat /etc/passwd /etc/group").splitlines()
    return {line for line in files if not re.match(_NOT_OURS, line)} | set(users)


def must_be(before: set[str], after: set[str]) -> None:
    """Check that the state has not changed."""
    must(before == after, f"left: {sorted(after - before)}; taken: {sorted(before - after)}")


def install(root: Root, package: Path) -> None:
    """Install a package as an operator who keeps a changed configuration."""
    path = root.copy(package, "tmp")
    keep = "-o Dpkg::Options::=--force-confold"
    root.run(f"DEBIAN_FRONTEND=noninteractive apt-get install -y {keep} {path}")


def starts(root: Root, port: int) -> None:
    """Start the server with the unit's command, and send requests to the configured port."""
    root.run(f"systemd-analyze verify --man=no {_PACKAGE}.service")
    root.run("setpriv --reuid=nobody --clear-groups /usr/bin/opq-release --help")
    root.run("setpriv --reuid=nobody --clear-groups /usr/bin/opq-fleet --help")
    archive = root.copy(make_archive(root.path / "tmp" / _ARCHIVE, 1547860803), "tmp/..")
    root.run(f"mv {archive} {_UPDATES}")
    with server(root):
        url = f"http://127.0.0.1:{port}/ls"
        must(answer(url) == f"{_ARCHIVE}\n", "The server does not list the archive.")
        page = answer(url, accept="text/html")
        must(f'href="update/{_ARCHIVE}"' in page, "The server's page does not list the archive.")


@contextmanager
def server(root: Root) -> Iterator[None]:
    """Run the server as its user, in a read-only system."""
    unit = root.read(f"/lib/systemd/system/{_PACKAGE}.service")
    [user] = re.findall("^User=(.*)", unit, re.M)
    [environment] = re.findall("^Environment=(.*)", unit, re.M)
    [command] = re.findall("^ExecStart=(.*)", unit, re.M)
    as_user = f"setpriv --reuid={user} --regid={user} --clear-groups --no-new-privs"
    # systemd and sh both understand such a file, ${NAME} and $NAME.
    script = f"set -a; {environment}; . {_CONFIGURATION}; exec {as_user} {command}"
    process = subprocess.Popen(
        root.entering(script, writable=False), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield
    except Broken as error:
        process.kill()
        raise Broken(f"{error}\n{process.communicate()[0].decode()}") from None
    finally:
        # unshare ignores SIGTERM while it waits.
        process.kill()
        process.wait()


def upgraded(root: Root) -> None:
    """Check that the newer package is installed with the operator's configuration."""
    version = root.run(f"dpkg-query --show --showformat '${{Version}}' {_PACKAGE}")
    must(version == _NEWER, f"Upgraded to {version}.")
    must(_ADDED not in root.read(_CONFIGURATION), "The upgrade took the configuration away.")
    offered = root.read(f"{_CONFIGURATION}.dpkg-dist")
    must(_ADDED in offered, "The new configuration is not beside the old one.")


def removed(root: Root) -> None:
    """Remove the package, and check the files that stay."""
    root.run(f"apt-get remove -y {_PACKAGE}")
    left = root.run(f"ls -d {_HOME} {_CONFIGURATION} {_UPDATES}/* || true")
    must(_CONFIGURATION in left and _ARCHIVE in left, "The removal took what is the operator's.")
    must(f"\n{_HOME}\n" not in left, f"The removal left {_HOME}.")


if __name__ == "__main__":
    sys.exit(main())
