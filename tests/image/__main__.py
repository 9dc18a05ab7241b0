"""Builds the server's image, and runs it as docs/operating-a-server.md says: `make image-test`."""

import argparse
import ast
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opq_twisted.archive.name import UpdateName
from tests.helpers.archives import make_archive
from tests.vm.box import free_port
from tests.vm.cache import ROOT
from tests.vm.image import small_system
from tests.vm.needs import find
from tests.vm.releases import Keys, run
from tests.vm.report import Broken, must, say
from tests.vm.server import answer

_PROGRAMS = ("mmdebstrap", "podman", "runc")

_IMAGE = "openpowerquality/opqboxupdateserver"
_CONTAINER = "opq-box-update-server"
_UPDATES = "/var/opq/box-updates"
_VERSION = 1547860803

#: The user ids of the server without a key and with one.
_NOBODY, _SIGNER = 8151, 8152

#: The base of the image, which is built here: no registry is needed.
_BASE = "docker.io/library/python:3.11-slim-bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates"
_PYTHON = "FROM localhost/debian\nRUN ln -s /usr/bin/python3 /usr/local/bin/python\n"

#: Under the name of docker: docker-run.sh knows no other. Like docker it mounts no tmpfs unless it
#: is asked to; and only a privileged root may set the limit of processes that it would set.
_DOCKER = """#!/bin/sh
[ "$1" != run ] || {{
    shift
    set -- run --read-only-tmpfs=false --ulimit nproc=1000:1000 "$@"
}}
exec podman --root {folder}/storage --runroot {folder}/state --storage-driver vfs \\
    --runtime runc --cgroup-manager cgroupfs --events-backend file "$@"
"""


def main() -> int:
    """Run the whole test; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".image", help="for what is kept")
    folder = parser.parse_args().folder.absolute()
    if lacking := [program for program in _PROGRAMS if not find(program)]:
        print(f"image-test needs packages that are not installed: {', '.join(lacking)}.")
        return 2
    if os.geteuid() != 0:
        print("image-test has to be run by root.")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    try:
        base = small_system(folder, "base", _PACKAGES)
        with Docker() as docker:
            build(docker, base)
            offers(docker)
            signs(docker)
    except Broken as error:
        print(f"failed: {error}")
        return 1
    return 0


class Docker:
    """A command `docker` with images of its own."""

    def __enter__(self) -> "Docker":
        self._scratch = tempfile.TemporaryDirectory(prefix="opq-image-")
        self.folder = Path(self._scratch.name)
        program = self.folder / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(_DOCKER.format(folder=self.folder))
        program.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self("system", "reset", "--force")
        finally:
            self._scratch.cleanup()

    def __call__(self, *arguments: str) -> str:
        """Run docker; returns its output."""
        return self.type(shlex.join(["docker", *arguments]))

    def type(self, command: str) -> str:
        """Run a command of the page; returns its output."""
        path = f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"
        return run(["bash", "-euo", "pipefail", "-c", command], ROOT, path)

    def inside(self, command: str) -> str:
        """Run a command for sh in the container, as the server's user."""
        return self("exec", _CONTAINER, "sh", "-c", command)

    @contextmanager
    def runs(self, command: str) -> Iterator[None]:
        """Run the server, and check that it stops in an orderly way."""
        self.type(command)
        try:
            yield
            self("stop", _CONTAINER)
            must("Server Shut Down." in self("logs", _CONTAINER), "The server was not shut down.")
        finally:
            self("rm", "--force", "--time", "0", _CONTAINER)


def build(docker: Docker, base: Path) -> None:
    """Build the image on a Debian that was built here."""
    docker("import", str(base), "localhost/debian")
    folder = docker.folder / "python"
    folder.mkdir()
    (folder / "Dockerfile").write_text(_PYTHON)
    docker("build", "--isolation", "chroot", "--tag", _BASE, str(folder))
    command = f"docker build --file deploy/server/Dockerfile --tag {_IMAGE} ."
    here = ("--isolation", "chroot", "--network", "host", "--format", "docker", *_package_index())
    docker.type(command.replace("build", f"build {shlex.join(here)}", 1))
    say("passed: built")


def _package_index() -> list[str]:
    """Give pip in the build the package index of this machine's pip."""
    listed = run([sys.executable, "-m", "pip", "config", "list"])
    options = []
    for name, value in re.findall(r"^[\w:]+\.([\w-]+)=(.*)$", listed, re.M):
        text = ast.literal_eval(value)
        options += ["--env", f"PIP_{name.upper().replace('-', '_')}={text}"]
        for path in re.findall(r"(?:^|\s|file://)(/\S+)", text):
            # An index refers to the files beside it.
            folder = Path(path).parent if f"file://{path}" in text else Path(path)
            options += ["--volume", f"{folder}:{folder}:ro"]
    return options


def offers(docker: Docker) -> None:
    """Run the server without a key."""
    updates = docker.folder / "updates"
    updates.mkdir()
    archive = make_archive(updates / str(UpdateName(_VERSION)), _VERSION)
    port = free_port()
    options = 'OPTIONS="--metrics-from 0.0.0.0/0,::/0"'
    with docker.runs(f"{options} deploy/server/docker-run.sh {port} {updates}"):
        url = f"http://127.0.0.1:{port}"
        must(answer(f"{url}/ls") == f"{archive.name}\n", "The archive is not listed.")
        must(answer(f"{url}/version").strip() == str(_VERSION), "It is not the newest.")
        must("opq_archives 1.0" in answer(f"{url}/metrics"), "The metrics are not open.")
        confined(docker, _NOBODY)
        must(docker.inside("ls /run/secrets || true").count("key") == 0, "There is a key.")
        healthy(docker)
    say("passed: offers an archive, and can do nothing else")


def signs(docker: Docker) -> None:
    """Run the server with a key: it signs the metadata of another user."""
    keys = Keys(docker.folder / "keys")
    keys.make()
    keys.publish(make_archive(keys.updates / str(UpdateName(_VERSION)), _VERSION))
    (keys.updates / "tuf" / "timestamp.json").unlink(missing_ok=True)
    docker.type(f"chown -R {_SIGNER}:{_SIGNER} {keys.updates}/tuf")
    owner = f"install -o {_SIGNER} -m 400"
    docker.type(f"{owner} {keys.timestamp} {docker.folder}/timestamp.pem")
    docker.type(f"{owner} {keys.passphrase} {docker.folder}/timestamp.passphrase")
    # The server's user needs access.
    docker.folder.chmod(0o755)
    port = free_port()
    secrets = f"{docker.folder}/timestamp.pem {docker.folder}/timestamp.passphrase"
    with docker.runs(f"deploy/server/docker-run.sh {port} {keys.updates} {secrets}"):
        signed = json.loads(answer(f"http://127.0.0.1:{port}/tuf/timestamp.json"))["signed"]
        must(signed["meta"]["snapshot.json"]["version"] == 2, f"It signed {signed}.")
        confined(docker, _SIGNER)
    say(f"passed: signed timestamp {signed['version']}")


def confined(docker: Docker, user: int) -> None:
    """Check that the server has no capabilities, and can write no file."""
    must(docker.inside("id -u").strip() == str(user), "The server is somebody else.")
    status = docker.inside("cat /proc/1/status")
    for expected in (r"CapEff:\t0+", r"CapBnd:\t0+", r"NoNewPrivs:\t1"):
        must(re.search(f"^{expected}$", status, re.M) is not None, f"Not so:\n{status}")
    for path in ("/x", "/tmp/x", f"{_UPDATES}/x"):
        said = docker.inside(f"! touch {path} 2>&1")
        must("Read-only file system" in said, f"{path} can be written: {said}")


def healthy(docker: Docker) -> None:
    """Run the health check of the image."""
    [image] = json.loads(docker("image", "inspect", _IMAGE))
    _kind, *command = image["Healthcheck"]["Test"]
    docker("exec", _CONTAINER, *command)


if __name__ == "__main__":
    sys.exit(main())
