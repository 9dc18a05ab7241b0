"""The commands of the README and the operators' pages do what the pages say."""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import pytest_twisted

from opq_twisted.archive.name import UpdateName
from opq_twisted.http.tls import parse_ssl
from tests.functional.box import Box, Spawn
from tests.functional.processes import (
    BUILDER,
    RELEASE_TOOL,
    ROOT,
    Server,
    copy_sources,
    curl,
    require,
    run,
    until,
)
from tests.helpers.certificates import make_certificate
from tests.helpers.documentation import Block, blocks, commands

README, SERVER, BOX, FLEET, PRIVACY, TROUBLES = (
    ROOT / name
    for name in (
        "README.md",
        "docs/operating-a-server.md",
        "docs/operating-a-box.md",
        "docs/operating-a-fleet.md",
        "docs/privacy.md",
        "docs/troubleshooting.md",
    )
)

RELEASE = 1547860803

_NGINX = "tests/functional/test_nginx.py"
_OPERATOR = "tests/functional/test_opq_box.py"
_PACKAGING = "tests/functional/test_packaging.py"
_PAGE = "tests/functional/test_fleet_page.py"
_FLEET, _BACKUP = "tests/functional/test_opq_fleet.py", "tests/unit/fleet/store/test_backup.py"
_DEB, _IMAGE, _VM = "tests/deb/__main__.py", "tests/image/__main__.py", "tests/vm/package.py"

#: Commands that another test runs: the file of that test, and the words in it.
ELSEWHERE = {
    "apt-get install git make python3 python3-venv": (".ci/run", "python3-venv"),
    "git clone REPOSITORY-URL opq_twisted": (".ci/run", "git clone"),
    "cd opq_twisted": (".ci/run", "--directory"),
    "make demo": (".ci/run", "make demo"),
    "make demo FLEET=1": ("tests/functional/test_fleet_demo.py", '"demo", "--fleet"'),
    "make test": (".ci/run", "make test"),
    "apt-get install nginx": (".ci/run", "nginx-light"),
    "curl -sI http://localhost/update/NAME | grep X-Cache-Status": (_NGINX, "X-Cache-Status"),
    'curl -sfo "$name.pieces" --retry 10 "http://localhost:8151/update/$name.pieces"': (
        "tests/functional/test_index.py",
        '"-sfo", stored, "--retry", "10"',
    ),
    "systemctl restart opq-box-agent": ("tests/vm/box.py", "systemctl restart opq-box-agent"),
    "opq-box log --follow": (_OPERATOR, '"log", "--follow"'),
    "opq-box forgive 1547860803": (_OPERATOR, '"forgive", '),
    "./install_update.sh --check": ("tests/unit/deploy/test_install_script.py", '"--check"'),
    "./install_update.sh --help": ("tests/unit/deploy/test_install_script.py", '"--help"'),
    "python3 -m venv ../opq-release && . ../opq-release/bin/activate": (
        _PACKAGING,
        '"-m", "venv"',
    ),
    "python3 -I -m venv /opt/opq-update-server": (_PACKAGING, '"-I", "-m", "venv"'),
    "/opt/opq-update-server/bin/pip install --require-hashes --no-deps -r requirements.lock "
    "-r requirements-build.lock": (
        _PACKAGING,
        '"-r", "requirements.lock", "-r", "requirements-build.lock"',
    ),
    "/opt/opq-update-server/bin/pip install --no-deps --no-build-isolation .": (
        _PACKAGING,
        '"--no-deps", "--no-build-isolation"',
    ),
    "/opt/opq-update-server/bin/opq-update-server --port 8151 --updates-dir /var/opq/box-updates": (
        _PACKAGING,
        '(programs / "opq-update-server", "--port"',
    ),
    "/opt/opq-update-server/bin/pip install --require-hashes --no-deps -r "
    "requirements-fleet.lock": (_PACKAGING, '"-r", "requirements-fleet.lock"'),
    "pip install --require-hashes --no-deps -r requirements.lock -r requirements-build.lock "
    "-r requirements-sbom.lock": (
        _PACKAGING,
        '"--require-hashes", "--no-deps"',
    ),
    "pip install --no-deps --no-build-isolation .": (
        _PACKAGING,
        '"--no-deps", "--no-build-isolation"',
    ),
    "opq-release push --updates-dir updates SERVER:/var/opq/box-updates": (
        "tests/unit/signing/test_push.py",
        "class AnnouncedTests",
    ),
    "opq-box setup --server http://SERVER:8151 --install automatic": (
        "tests/unit/cli/box/test_setup.py",
        '"setup"',
    ),
    "make manuals": ("tests/unit/test_manuals.py", "build_manuals"),
    "make deb": (_DEB, "deploy/server/build-deb"),
    "apt-get install ./dist/opq-update-server_*.deb": (_DEB, "apt-get install"),
    "apt-get install debhelper dpkg-dev make python3-venv": (".ci/run", "debhelper"),
    "make image": (_IMAGE, 'type("make image")'),
    "docker compose -f deploy/server/compose.yaml up --detach --build": (_IMAGE, "up --detach"),
    "curl http://localhost:8151/ls": ("tests/functional/test_listing_page.py", "/ls"),
    "export TIMESTAMP_KEY=/etc/opq/timestamp.pem "
    "TIMESTAMP_PASSPHRASE=/etc/opq/timestamp.passphrase": (_IMAGE, "TIMESTAMP_KEY="),
    "export TUF_OWNER=$(stat -c %u:%g /var/opq/box-updates/tuf)": (_IMAGE, "TUF_OWNER="),
    "docker compose -f deploy/server/compose.yaml -f deploy/server/compose.signed.yaml "
    "up --detach --build": (_IMAGE, "composes_signed"),
    "export FLEET_DIR=/var/opq/fleet": (_IMAGE, "FLEET_DIR="),
    'install -d -o "${TUF_OWNER%:*}" -g "${TUF_OWNER#*:}" -m 700 "$FLEET_DIR"': (
        _IMAGE,
        "install -d {owner} -m 700",
    ),
    'install -o "${TUF_OWNER%:*}" -g "${TUF_OWNER#*:}" -m 600 /dev/null "$FLEET_DIR/operators"': (
        _IMAGE,
        "install {owner} -m 600 /dev/null",
    ),
    "docker compose -f deploy/server/compose.yaml exec server "
    "/opt/opq-update-server/bin/opq-fleet status": (
        _IMAGE,
        '"/opt/opq-update-server/bin/opq-fleet", "status"',
    ),
    "deploy/server/docker-run.sh": (_IMAGE, "docker-run.sh"),
    'OPTIONS="--metrics-from 172.17.0.0/16" deploy/server/docker-run.sh': (
        _IMAGE,
        'OPTIONS="--metrics-from ',
    ),
    "deploy/server/docker-run.sh 9000 /srv/updates": (_IMAGE, "docker-run.sh"),
    "deploy/server/docker-run.sh 8151 /var/opq/box-updates /etc/opq/timestamp.pem "
    "/etc/opq/timestamp.passphrase": (_IMAGE, "docker-run.sh"),
    "editor /etc/default/opq-update-server": (_DEB, "/etc/default/"),
    "systemctl restart opq-update-server": (_VM, "systemctl restart {_NAME}"),
    "systemctl enable --now opq-update-server": (_VM, "systemctl enable --now {_NAME}"),
    "systemctl daemon-reload && systemctl restart opq-update-server": (
        _VM,
        "systemctl daemon-reload && systemctl restart {_NAME}",
    ),
    "journalctl --unit opq-update-server | grep signed": (
        _VM,
        "journalctl --unit {_NAME} | grep signed",
    ),
    "journalctl --unit opq-update-server --output cat | grep '\"status\": [45]'": (
        _VM,
        "journalctl --unit {_NAME} --output cat | grep '\"status\": [45]'",
    ),
    "useradd --system --no-create-home --shell /usr/sbin/nologin opq-update-server": (
        _VM,
        "useradd --system --no-create-home --shell /usr/sbin/nologin {_NAME}",
    ),
    "groupadd --system --force release": (_VM, "groupadd --system --force release"),
    "journalctl --unit opq-box-agent --lines 50": (
        "tests/vm/scenarios.py",
        "journalctl --unit opq-box-agent --lines 50",
    ),
    "journalctl --unit opq-box-rescue --lines 50": (
        "tests/vm/scenarios.py",
        "journalctl --unit opq-box-rescue --lines 50",
    ),
    "/opt/opq/current/box-configuration-daemon/golden-image": (
        "tests/vm/golden_image.py",
        "/current/box-configuration-daemon/golden-image",
    ),
    "FLEET_DIR=/var/opq/fleet deploy/server/docker-run.sh": (
        "tests/unit/deploy/test_docker_run.py",
        "FLEET_DIR=",
    ),
    "opq-fleet status": (_FLEET, '("status",)'),
    'opq-fleet hold 1547860803 --because "two boxes do not measure any more"': (
        _FLEET,
        '"hold", RELEASE, "--because"',
    ),
    "opq-fleet add-operator anna --role operator": (
        "tests/unit/cli/fleet/test_operators.py",
        '"add-operator", name, "--role"',
    ),
    "TOKEN=$(opq-fleet add-token reader --role viewer)": (
        "tests/unit/cli/fleet/test_operators.py",
        '"add-token"',
    ),
    'curl --header "Authorization: Bearer $TOKEN" http://127.0.0.1:8152/fleet': (
        _PAGE,
        "Authorization: Bearer {TOKEN}",
    ),
    "cp deploy/server/nginx-fleet.conf /etc/nginx/sites-available/opq-fleet": (
        _PAGE,
        "nginx-fleet.conf",
    ),
    "ln -s ../sites-available/opq-fleet /etc/nginx/sites-enabled/": (_PAGE, "nginx.conf"),
    "opq-fleet migrate --fleet-db postgresql://opq@db.example.org/fleet": (
        "tests/unit/cli/fleet/test_main.py",
        '"migrate", "--fleet-db", url',
    ),
    "pg_dump --format=custom --file=/var/backups/fleet.dump "
    "postgresql://opq@db.example.org/fleet": (_BACKUP, '"--format=custom", f"--file='),
    "pg_restore --no-owner --exit-on-error --dbname=postgresql://opq@db.example.org/fleet "
    "/var/backups/fleet.dump": (_BACKUP, '"--no-owner", "--exit-on-error"'),
    "man -l build/man/opq-box.1": ("tests/unit/test_manuals.py", '"-man"'),
    ". build/completions/bash/opq-box": ("tests/unit/test_manuals.py", "completions/bash/"),
}

#: Commands that no test runs, and what such a test would need.
UNTRIED = {
    "nginx -t && systemctl reload nginx": "a machine with systemd and nginx",
    "apt-get install certbot": "a public server",
    "certbot certonly --webroot --webroot-path /var/www/html --domain updates.example.org "
    '--deploy-hook "systemctl reload nginx"': "a public server",
    "certbot certonly --standalone --domain updates.example.org "
    "--deploy-hook /etc/opq/copy-certificate": "a public server",
    "editor /etc/nginx/snippets/opq-updates-tls.conf": "a person",
    "curl -sI https://updates.example.org/": "a public server",
    "certbot renew --dry-run": "a public server",
    "ssh opq@opq-box-7.local": "another machine",
    'aws s3 cp "$name" "s3://BUCKET/update/$name" --content-type application/octet-stream '
    "--cache-control 'public, max-age=31536000, immutable'": "an account",
    "systemctl disable --now UNIT-OF-THE-OLDER-DAEMON": "an older box",
    "sed -i 's/bookworm/trixie/g' /etc/apt/sources.list /etc/apt/sources.list.d/*": "a box",
    "apt update && apt full-upgrade": "a box",
    "reboot": "a box",
    "systemctl daemon-reload": "a box with systemd",
    "systemctl stop opq-box-agent": "a box with systemd",
    "systemctl enable --now opq-box-agent.socket": "a box with systemd",
    "systemctl start opq-box-agent": "a box with systemd",
    "usermod --append --groups release anna": "a server with this user",
    "sudo -u postgres createuser opq": "a machine with a PostgreSQL of its own",
    "sudo -u postgres createdb --owner=opq fleet": "a machine with a PostgreSQL of its own",
    "install -d -o 8151 -m 700 /var/opq/fleet": "root",
    "docker exec opq-box-update-server /opt/opq-update-server/bin/opq-fleet status": (
        "a container with a fleet"
    ),
    "docker compose -f deploy/server/compose.yaml exec server "
    "/opt/opq-update-server/bin/opq-fleet add-operator anna --role operator": (
        "a person who types a password"
    ),
    "systemctl stop opq-update-server": "a server with systemd",
    "systemctl start opq-update-server": "a server with systemd",
}

#: The commands that are run here, in a folder that stands for the machines of the pages.
TYPED = {
    "mkdir updates",
    "opq-release init --updates-dir updates",
    "cp updates/tuf/1.root.json root.json",
    "archive=$(./build_update.py --trusted-root root.json --python-version 3.11 "
    "--platform manylinux2014_aarch64)",
    'opq-release publish --updates-dir updates "$archive"',
    "tar xf opq-box-update-*.tar.bz2 && cd opq-box-update-*/",
    "./install_update.sh",
    "mkdir -p /var/opq/box-updates",
    "cp deploy/server/opq-update-server.service /etc/systemd/system/",
    "rsync opq-box-update-1547860803.tar.bz2 server:/var/opq/box-updates/",
    "rsync -t updates/opq-box-update-*.tar.bz2 server:/var/opq/box-updates/",
    "rsync -t --exclude timestamp.json updates/tuf/*.json server:/var/opq/box-updates/tuf/",
    "install -d -o root -g release -m 2775 /var/opq/box-updates",
    "install -d -o opq-update-server -g release -m 2775 /var/opq/box-updates/tuf",
    "install -d -m 700 /etc/opq",
    "install -m 400 timestamp-*.pem /etc/opq/timestamp.pem",
    "install -m 400 /dev/null /etc/opq/timestamp.passphrase",
    "install -D -m 644 deploy/server/timestamp.conf "
    "/etc/systemd/system/opq-update-server.service.d/timestamp.conf",
    "install -o opq-update-server -m 400 timestamp-*.pem /etc/opq/timestamp.pem",
    "install -o opq-update-server -m 400 passphrase /etc/opq/timestamp.passphrase",
    "install -d -o opq-update-server -m 500 /etc/opq/tls",
    'install -o opq-update-server -m 400 "$RENEWED_LINEAGE/fullchain.pem" '
    "/etc/opq/tls/fullchain.pem",
    'install -o opq-update-server -m 400 "$RENEWED_LINEAGE/privkey.pem" /etc/opq/tls/privkey.pem',
    "opq-update-server --timestamp-key timestamp.pem --timestamp-passphrase-file passphrase",
    "cd /var/opq/box-updates && "
    "rsync -t first:/var/opq/box-updates/tuf/timestamp.json tuf/.timestamp.json.copy && "
    "rsync -t 'first:/var/opq/box-updates/*.tar.bz2' . && "
    "rsync -t 'first:/var/opq/box-updates/tuf/*.*.json' tuf/ && "
    "mv tuf/.timestamp.json.copy tuf/timestamp.json",
    "mkdir -p /var/cache/nginx",
    "cp deploy/server/nginx-site.conf /etc/nginx/sites-available/opq-updates",
    "ln -s ../sites-available/opq-updates /etc/nginx/sites-enabled/",
    "rm /etc/nginx/sites-enabled/default",
    "cp deploy/server/nginx-tls.conf /etc/nginx/snippets/opq-updates-tls.conf",
    "install -D -m 644 deploy/server/low-port.conf "
    "/etc/systemd/system/opq-update-server.service.d/low-port.conf",
    "cd /var/opq/box-updates && ls -v opq-box-update-*.tar.bz2 | head --lines=-5 | "
    "xargs --no-run-if-empty rm --verbose",
    "opq-update-server --mirror https://mirror.example.org/opq",
    "name=opq-box-update-1547860803.tar.bz2",
    "curl -sf -r 0-99 -H 'Accept-Encoding: gzip, bzip2' -o /dev/null -D - "
    '"https://mirror.example.org/update/$name"',
    'rsync "$name" server:/var/opq/box-updates/',
    "./build_update.py --trusted-root root.json --python-version 3.11 "
    "--platform manylinux2014_aarch64",
    "scp opq-box-update-1547860803.tar.bz2 opq@opq-box-7.local:",
    "tar xf opq-box-update-1547860803.tar.bz2",
    "cd opq-box-update-files",
    "opq-box setup --server http://updates.example.org:8151 --install automatic",
    "opq-box setup --server http://updates.example.org:8151 --box-id auto --name Kitchen "
    "--install automatic",
    "opq-box setup --name Kitchen",
    "opq-box config",
    "rsync -t --recursive --delete --exclude '.*' --exclude timestamp.json "
    "first:/var/opq/box-updates/tuf/ tuf/",
    "cp /opt/opq/current/box-configuration-daemon/systemd/opq-box-agent.socket "
    "/etc/systemd/system/",
    "opq-box adopt opq-box-update-1547860803.tar.bz2",
    "opq-box check",
    "opq-box password /etc/opq/web_password",
    "mkdir -p /run/opq && touch /run/opq/inhibit-update",
    "rm /run/opq/inhibit-update",
    "install -m 644 root.json /etc/opq/root.json",
    "curl -X POST http://localhost:8080/box_update",
    "curl http://localhost:8080/status",
    "opq-box status",
    "opq-box update",
    "opq-box history",
    "opq-box report --show",
    "opq-box log",
    "opq-update-server --updates-dir updates --fleet-db sqlite:///fleet.db "
    "--fleet-socket fleet.sock",
    "opq-fleet status --socket fleet.sock",
    "sqlite3 /var/lib/opq-update-server/fleet.db \"VACUUM INTO '/var/backups/fleet.db'\"",
    "cd /var/lib/opq-update-server",
    "rm -f fleet.db fleet.db-wal fleet.db-shm",
    "install --owner=opq-update-server --group=opq-update-server --mode=600 /var/backups/fleet.db "
    "fleet.db",
    "python3 -c 'import sys, sysconfig; "
    'print(sys.version, sysconfig.get_config_var("MULTIARCH"))\'',
}

# The pages' own tools, with what is not the same here: nobody types a password, the box has its
# files in a folder, there are no other users, no machine is far away, and keys open in no time.
TOOLS = {
    "opq-release": RELEASE_TOOL,
    "opq-box": """\
case $1 in
    adopt) set -- "$@" --config {box}/etc/opq/opqbox_config.json --state-dir {box}/state ;;
    # The server has another address here.
    setup)
        if [ "$2" = --server ]; then shift 3; else shift; fi
        set -- setup "$@" --config {box}/etc/opq/opqbox_config.json
        ;;
    config) set -- "$@" {box}/etc/opq/opqbox_config.json ;;
    password) echo "open sesame" | {program} "$@" && exit ;;
esac
exec {program} "$@"
""",
    "install": """\
if [ "$1" = -d ] && [ "$2" = -o ]; then shift 5 && set -- -d "$@"; fi
if [ "$1" = -o ]; then shift 2; fi
if [ "${{1#--owner}}" != "$1" ]; then shift 2; fi
exec {program} "$@"
""",
    "rsh": 'shift && exec sh -c "$*"\n',
}


def typed(block: Block) -> Iterator[str]:
    """Choose the commands that are run here."""
    return (command for command in commands(block.script) if command in TYPED)


def test_no_command_is_forgotten() -> None:
    """Each command of the pages is run here, run elsewhere, or known to be run by no test."""
    found = {
        command
        for page in (README, SERVER, BOX, FLEET, PRIVACY, TROUBLES)
        for block in blocks(page.read_text(encoding="utf-8"))
        for command in commands(block.script)
    }
    known = [*TYPED, *ELSEWHERE, *UNTRIED]
    assert len(set(known)) == len(known)
    assert sorted(found - set(known)) == [], "no test knows of these"
    assert sorted(set(known) - found) == [], "no page has these any more"


def test_elsewhere_is_there() -> None:
    """The tests that are said to run a command have the words for it."""
    wrong = [
        command
        for command, (path, words) in ELSEWHERE.items()
        if words not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert wrong == []


class Place:
    """The machines of the pages in one folder: the developer's, the server and the box."""

    def __init__(self, folder: Path, spawn: Spawn) -> None:
        self.folder = folder
        self.checkout = folder / "checkout"
        self.updates = folder / "var" / "opq" / "box-updates"
        self.first = folder / "first"
        self.bin = folder / "bin"
        self._spawn = spawn
        self.server: Server | None = None
        self.box = Box(spawn, folder / "box")
        self.box.prefix = folder / "opt" / "opq"
        self.box.config = folder / "etc" / "opq" / "opqbox_config.json"
        self.box.root = folder / "etc" / "opq" / "root.json"
        self.box.state_dir = folder / "state"
        self.box.use_installed_agent()
        etc = ("systemd/system", "nginx/snippets", "nginx/sites-available", "nginx/sites-enabled")
        for each in (*(f"etc/{name}" for name in etc), "home/opq", "bin"):
            (folder / each).mkdir(parents=True)
        (folder / "etc" / "nginx" / "sites-enabled" / "default").touch()
        copy_sources(self.checkout)
        (self.checkout / "build_update.py").write_text(
            BUILDER.format(python=sys.executable, root=ROOT)
        )
        for name, script in TOOLS.items():
            program = shutil.which(name, path=_paths())
            text = script.format(program=program, box=folder, python=sys.executable)
            (self.bin / name).write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
            (self.bin / name).chmod(0o755)

    def _here(self, command: str) -> str:
        """Change a command for this folder."""
        for top in ("opt", "var", "etc", "run", "home"):
            command = command.replace(f"first:/{top}/", f"first:{self.first}/{top}/")
            command = re.sub(rf"(?<![\w/])/{top}/", f"{self.folder}/{top}/", command)
        command = command.replace("opq@opq-box-7.local:", f"{self.folder}/home/opq/")
        if hasattr(self.box, "agent"):
            command = command.replace("http://localhost:8080", self.box.agent.url)
        if self.server is not None and command.startswith("curl"):
            command = command.replace("https://mirror.example.org", self.server.url)
        return command

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}{os.pathsep}{_paths()}",
            "PYTHONPATH": str(ROOT),
            "OPQ_RELEASE_PASSPHRASE": "open sesame",
            "OPQ_PREFIX": str(self.box.prefix),
            "OPQ_SYSTEMD": "no",
            "OPQ_REBOOT": "no",
            "OPQ_PYTHON": sys.executable,
            "OPQ_BOX_URL": self.box.agent.url if hasattr(self.box, "agent") else "",
            "RSYNC_RSH": str(self.bin / "rsh"),
            "RENEWED_LINEAGE": str(self.folder / "renewed"),
        }

    async def type(self, block: Block, folder: Path) -> str:
        """Run the commands of a block; returns their output."""
        lines = [self._here(command) for command in typed(block)]
        servers = [line for line in lines if re.match(r"\S*opq-update-server --", line)]
        script = "\n".join(line for line in lines if line not in servers)
        environment = [f"{name}={value}" for name, value in self._environment().items()]
        status, out, error = await run(
            *("env", *environment, "bash", "-euo", "pipefail", "-c", script),
            folder=folder,
        )
        assert status == 0, f"{block.section}:\n{script}\n{out}{error}"
        for line in servers:
            await self._serve(line, folder)
        return out

    async def offers(self, version: int) -> None:
        """Wait until the server has found an archive."""
        assert self.server is not None
        url = f"{self.server.url}/update/{UpdateName(version)}"
        await until(
            lambda: curl(url, "--range", "0-0", "--output", os.devnull),
            lambda answer: answer[0] == 206,
        )

    async def _serve(self, command: str, folder: Path) -> None:
        """Start a server as the command says."""
        server = await self._start(command, folder)
        if "--timestamp-key" in command:
            await server.says("signed timestamp")
            self.server, self._signing = server, command

    async def serve_again(self) -> None:
        """Start the signing server again; its earlier timestamp is fresh enough."""
        self.server = await self._start(self._signing, self.checkout)

    async def _start(self, command: str, folder: Path) -> Server:
        """Start a server on a free port, with the updates directory."""
        port = f"--port tcp:0:interface=127.0.0.1 --updates-dir {self.updates}"
        script = f"cd {folder} && exec {command} {port}"
        return await self._spawn("bash", "-c", script, env=self._environment()).ready()


def _paths() -> str:
    return os.pathsep.join([os.fspath(Path(sys.executable).parent), os.environ["PATH"]])


@pytest_twisted.ensureDeferred
async def test_pages(spawn: Spawn, tmp_path: Path) -> None:
    """The pages lead to a server, a signed release, and a box that accepts it."""
    for program in ("rsync", "curl", "scp", "sqlite3"):
        require(program)
    place = Place(tmp_path, spawn)
    for block in blocks(README.read_text(encoding="utf-8")):
        await place.type(block, place.checkout)
    assert (place.box.prefix / "current" / "VERSION").read_text() == f"{RELEASE}\n"
    assert (place.checkout / "updates" / str(UpdateName(RELEASE))).is_file()

    await operate_a_server(place)
    await operate_a_fleet(place)
    await operate_a_box(place)


async def operate_a_server(place: Place) -> None:
    """Run the commands of docs/operating-a-server.md."""
    [key] = (place.checkout / "opq-keys").glob("timestamp-*.pem")
    for name in (key.name, "timestamp.pem"):
        shutil.copy(key, place.checkout / name)
    (place.checkout / "passphrase").write_text("open sesame\n")
    shutil.rmtree(place.checkout / "opq-box-update-files")
    renewed = place.folder / "renewed"
    renewed.mkdir()
    make_certificate(renewed / "privkey.pem", renewed / "fullchain.pem")
    for section, parts in groupby(
        blocks(SERVER.read_text(encoding="utf-8")), lambda block: block.section
    ):
        if section == "Signed releases on several servers":
            await on_several_servers(place, parts)
        else:
            await on_the_server(place, parts)
    assert (place.folder / "etc" / "nginx" / "sites-enabled" / "opq-updates").is_file()


async def on_the_server(place: Place, parts: Iterable[Block]) -> None:
    """Run the commands of a section."""
    for block in parts:
        if block.section == "Archives in an object store, or on a CDN":
            await place.offers(RELEASE)
        out = await place.type(block, place.checkout)
        if block.section == "Archives in an object store, or on a CDN":
            assert out.startswith("HTTP/1.1 206 ")
        if "RENEWED" in block.script:
            folder = place.folder / "etc" / "opq" / "tls"
            key, certificate = folder / "privkey.pem", folder / "fullchain.pem"
            assert parse_ssl(f"ssl:8443:privateKey={key}:certKey={certificate}") is not None


async def on_several_servers(place: Place, parts: Iterable[Block]) -> None:
    """Run the commands that copy the signed releases to a second server without a key."""
    assert place.server is not None
    await place.server.stop()
    shutil.copytree(place.folder / "var", place.first / "var")
    shutil.rmtree(place.updates)
    (place.updates / "tuf").mkdir(parents=True)
    await on_the_server(place, parts)
    copied = {path.name: path.read_bytes() for path in (place.updates / "tuf").iterdir()}
    first = place.first / place.updates.relative_to(place.folder) / "tuf"
    assert copied == {path.name: path.read_bytes() for path in first.iterdir()}
    await place.serve_again()


async def operate_a_fleet(place: Place) -> None:
    """Run the commands of docs/operating-a-fleet.md."""
    folder = place.folder / "fleet"
    lib, backups = (place.folder / "var" / name for name in ("lib/opq-update-server", "backups"))
    for each in (folder, lib, backups):
        each.mkdir(parents=True)
    for block in blocks(FLEET.read_text(encoding="utf-8")):
        out = await place.type(block, folder)
        if "fleet.sock" in block.script and "status" in block.script:
            assert "0 boxes" in out
            # This is the database of the commands that follow.
            (lib / "fleet.db").symlink_to(folder / "fleet.db")
    assert not (lib / "fleet.db").is_symlink()
    assert (lib / "fleet.db").read_bytes() == (backups / "fleet.db").read_bytes() != b""


async def operate_a_box(place: Place) -> None:
    """Run the commands of docs/operating-a-box.md, docs/privacy.md and docs/troubleshooting.md."""
    assert place.server is not None
    home, box = place.folder / "home" / "opq", place.box
    (place.checkout / str(UpdateName(RELEASE))).unlink()
    box.configure(place.server.url, allow_unsigned=False)
    box.pin((place.checkout / "root.json").read_bytes())
    for block in blocks(BOX.read_text(encoding="utf-8")):
        if block.section == "From a blank SD card" and "opq-box setup" in block.script:
            await box.start()
        on_the_box = block.section == "From a blank SD card" and not re.search(
            "build_update|scp", block.script
        )
        out = await place.type(block, home if on_the_box else place.checkout)
        if "opq-box check" in block.script:
            assert "up to date" in out
    for page in (PRIVACY, TROUBLES):
        for block in blocks(page.read_text(encoding="utf-8")):
            await place.type(block, home)
    assert (place.folder / "etc" / "opq" / "web_password").read_text().startswith("$scrypt$")
