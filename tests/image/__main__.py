"""Builds the server's image, and runs it as docs/operating-a-server.md says: `make image-test`."""

import argparse
import ast
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opq_twisted import __version__
from opq_twisted.archive.name import UpdateName
from tests.helpers.archives import make_archive
from tests.vm.box import free_port
from tests.vm.cache import ROOT
from tests.vm.image import small_system
from tests.vm.needs import find
from tests.vm.releases import Keys, run
from tests.vm.report import Broken, must, say
from tests.vm.server import answer

_PROGRAMS = ("make", "mmdebstrap", "podman", "promtool", "runc")

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

#: Stand in for the images of nginx and Prometheus.
_WEB_PACKAGES = "nginx-light,prometheus"
_NGINX = """FROM localhost/web
RUN useradd --system nginx && rm -r /etc/nginx/sites-enabled/default /var/lib/nginx \\
    && mkdir /var/cache/nginx && ln -s /var/cache/nginx /var/lib/nginx \\
    && ln -sf /dev/stderr /var/log/nginx/error.log && ln -sf /dev/stdout /var/log/nginx/access.log
"""
_PROMETHEUS = """FROM localhost/web
USER 65534
ENTRYPOINT ["/usr/bin/prometheus"]
"""

_COMPOSE = ROOT / "deploy" / "server" / "compose.yaml"
_SIGNED = ROOT / "deploy" / "server" / "compose.signed.yaml"
_MONITORING = ROOT / "deploy" / "server" / "monitoring"
_PROMETHEUS_URL = "http://127.0.0.1:9090"

#: Under the name of docker: docker-run.sh and the Makefile know no other. Like docker it mounts no
#: tmpfs unless it is asked to; and only a privileged root may set the limits that it would set.
_DOCKER = """#!/bin/sh
command=$1
case $command in
    run | create)
        shift
        set -- "$command" --read-only-tmpfs=false --ulimit nproc=1000:1000 \\
            --ulimit nofile=20000:20000 "$@"
        ;;
    build)
        shift
        set -- build --isolation chroot --network host --format docker {index} "$@"
        ;;
esac
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
            stand_in(docker, small_system(folder, "web", _WEB_PACKAGES))
            composes(docker)
            composes_signed(docker)
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
        index = shlex.join(_package_index())
        program.write_text(_DOCKER.format(folder=self.folder, index=index))
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

    def build(self, tag: str, text: str) -> None:
        """Build an image."""
        with tempfile.TemporaryDirectory(prefix="opq-image-") as folder:
            (Path(folder) / "Dockerfile").write_text(text)
            self("build", "--tag", tag, folder)

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
    docker.build(_BASE, _PYTHON)
    docker.type("make image")
    [image] = json.loads(docker("image", "inspect", _IMAGE))
    labels = {key.rpartition(".")[2]: value for key, value in image["Config"]["Labels"].items()}
    must(labels["version"] == __version__, f"The image has the labels {labels}.")
    must(labels["revision"] in run(["git", "rev-parse", "HEAD"], ROOT), f"It has {labels}.")
    bom = json.loads((ROOT / "dist" / "opqboxupdateserver.cdx.json").read_text())
    names = {part["name"] for part in bom["components"]}
    must({"opq_twisted", "Twisted", "tuf"} <= names, f"The bill of materials has only {names}.")
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


def stand_in(docker: Docker, system: Path) -> None:
    """Build images of Debian's nginx and Prometheus under the names of those in compose.yaml."""
    docker("import", str(system), "localhost/web")
    text = _COMPOSE.read_text()
    for name, dockerfile in (("nginx", _NGINX), ("prom/prometheus", _PROMETHEUS)):
        [tag] = re.findall(rf"image: ({name}:\S+)", text)
        docker.build(f"docker.io/{'' if '/' in name else 'library/'}{tag}", dockerfile)


@contextmanager
def composed(docker: Docker, environment: str, *files: Path) -> Iterator[None]:
    """Run the services but Grafana, for which Debian has no package."""
    program = Path(sys.executable).with_name("podman-compose")
    options = shlex.join(word for file in files for word in ("--file", str(file)))
    compose = f"{environment} {program} --podman-path {docker.folder}/bin/docker {options}"
    try:
        docker.type(f"{compose} up --detach --no-build server nginx prometheus")
        yield
    finally:
        docker.type(f"{compose} down --volumes")


def composes(docker: Docker) -> None:
    """Run the server behind nginx, with Prometheus."""
    docker.type(f"promtool test rules {_MONITORING}/alerts-test.yaml")
    port = free_port()
    with composed(docker, f"PORT={port} UPDATES_DIR={docker.folder}/updates", _COMPOSE):
        archive = UpdateName(_VERSION)
        must(answer(f"http://127.0.0.1:{port}/ls") == f"{archive}\n", "nginx lists nothing.")
        headers = docker.type(f"curl -sfI http://127.0.0.1:{port}/update/{archive}")
        must("X-Cache-Status: MISS" in headers, f"nginx caches no archive:\n{headers}")
        status = docker.type(
            f"curl -so /dev/null -w '%{{http_code}}' http://127.0.0.1:{port}/metrics"
        )
        must(status == "403", f"Everybody may read the metrics: {status}.")
        observed()
        must("0 boxes" in fleet_status(docker), "opq-fleet shows no fleet.")
        page = "curl -so /dev/null -w '%{http_code}' http://127.0.0.1:8152/fleet"
        must(docker.type(page) == "401", "The page of the fleet is not there.")
    say("passed: composed, with a cache, a fleet, and a Prometheus that knows the alerts")


def fleet_status(docker: Docker) -> str:
    """Ask the composed server for its fleet."""
    names = docker("ps", "--format", "{{.Names}}").split()
    [server] = [name for name in names if "server" in name]
    return docker("exec", server, "/opt/opq-update-server/bin/opq-fleet", "status")


def observed() -> None:
    """Wait until Prometheus has asked the server; check that it knows the alert rules."""
    deadline = time.monotonic() + 90
    while "up" not in (found := healths()):
        must(time.monotonic() < deadline, f"Prometheus does not reach the server: {found}.")
        time.sleep(1)
    rules = json.loads(answer(f"{_PROMETHEUS_URL}/api/v1/rules"))["data"]["groups"][0]["rules"]
    must(all(rule["health"] in ("ok", "unknown") for rule in rules), f"Not so: {rules}")
    must("OpqServerDown" in {rule["name"] for rule in rules}, f"The rules are {rules}.")
    query = f"{_PROMETHEUS_URL}/api/v1/query?query=opq_fleet_store_up"
    [up] = json.loads(answer(query))["data"]["result"]
    must(up["value"][1] == "1", f"The fleet has no database: {up}.")


def healths() -> list[str]:
    """Return what Prometheus says of its targets."""
    targets = json.loads(answer(f"{_PROMETHEUS_URL}/api/v1/targets"))["data"]["activeTargets"]
    return [target["health"] for target in targets]


def composes_signed(docker: Docker) -> None:
    """Run the server with a key behind nginx."""
    updates = docker.folder / "keys" / "updates"
    (updates / "tuf" / "timestamp.json").unlink()
    owner = f"-o {_SIGNER} -g {_SIGNER}"
    docker.type(f"install -d {owner} -m 700 {docker.folder}/fleet")
    docker.type(f"install {owner} -m 600 /dev/null {docker.folder}/fleet/operators")
    port = free_port()
    environment = shlex.join(
        (
            *("env", f"PORT={port}", f"UPDATES_DIR={updates}", f"TUF_OWNER={_SIGNER}:{_SIGNER}"),
            f"FLEET_DIR={docker.folder}/fleet",
            f"TIMESTAMP_KEY={docker.folder}/timestamp.pem",
            f"TIMESTAMP_PASSPHRASE={docker.folder}/timestamp.passphrase",
        )
    )
    with composed(docker, environment, _COMPOSE, _SIGNED):
        signed = json.loads(answer(f"http://127.0.0.1:{port}/tuf/timestamp.json"))["signed"]
        must(signed["meta"]["snapshot.json"]["version"] == 2, f"It signed {signed}.")
        must(str(_VERSION) in fleet_status(docker), "The fleet has no rollout.")
    say("passed: composed, with signed releases")


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
