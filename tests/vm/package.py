"""Installs the Debian package of the server in a machine, lets it sign, and purges it."""

import http.server
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.vm.box import BOOT, VmBox
from tests.vm.cache import ROOT
from tests.vm.machine import HOST, PAGE
from tests.vm.releases import run
from tests.vm.report import Broken
from tests.vm.server import answer

_SERVER = ROOT / "deploy" / "server"
_NAME = "opq-update-server"
_HOME = f"/usr/lib/{_NAME}"

#: Seconds for an installation, which compiles Python modules in an emulated machine.
_INSTALL = 900.0

_ASK = """python3 -c "from urllib.request import urlopen; urlopen('http://127.0.0.1:{}')" """
_UNTIL_IT_ANSWERS = "until " + _ASK + "; do sleep 1; done"

#: The commands of docs/operating-a-server.md, with the port that is forwarded here.
_SIGN = f"""set -eu
groupadd --system --force release
install -d -o {_NAME} -g release -m 2775 /var/opq/box-updates/tuf
cp /medium/tuf/* /var/opq/box-updates/tuf/
install -d -m 700 /etc/opq
install -m 400 /medium/key /etc/opq/timestamp.pem
install -m 400 /medium/passphrase /etc/opq/timestamp.passphrase
install -D -m 644 /medium/timestamp.conf /etc/systemd/system/{_NAME}.service.d/timestamp.conf
cat >>/etc/default/{_NAME} <<END
PORT={PAGE}
OPTIONS="--heartbeat 20 --max-downloads 50"
END
systemctl stop opq-box-agent
systemctl daemon-reload && systemctl restart {_NAME}
"""
_LOGS = f"""set -eu
until journalctl --unit {_NAME} | grep signed; do sleep 1; done
{_ASK.format(f"{PAGE}/missing")} && exit 1
until journalctl --unit {_NAME} --output cat | grep '"status": [45]'; do sleep 1; done
"""
_LOW_PORT = f"""set -eu
install -D -m 644 /medium/low-port.conf /etc/systemd/system/{_NAME}.service.d/low-port.conf
echo PORT=80 >>/etc/default/{_NAME}
systemctl daemon-reload && systemctl restart {_NAME}
{_UNTIL_IT_ANSWERS.format(80)}
echo PORT={PAGE} >>/etc/default/{_NAME}
"""
_BY_HAND = f"""set -eu
systemctl disable --now {_NAME}
userdel {_NAME}
useradd --system --no-create-home --shell /usr/sbin/nologin {_NAME}
systemctl enable --now {_NAME}
{_UNTIL_IT_ANSWERS.format(PAGE)}
"""


def lives(box: VmBox) -> str:
    """The Debian package of the server installs, starts, signs and is purged, with systemd."""
    shell = box.shell
    _bring(box, _medium(box))
    started = time.monotonic()
    shell.run("dpkg --install /medium/*.deb", seconds=_INSTALL)
    took = time.monotonic() - started
    shell.run(f"systemctl is-enabled {_NAME} && {_UNTIL_IT_ANSWERS.format(8151)}", seconds=BOOT)
    shell.run(f"systemctl is-active {_NAME}")
    shell.run(_SIGN, seconds=BOOT)
    timestamp = json.loads(answer(f"{box.url}/tuf/timestamp.json", BOOT))
    if answer(f"{box.url}/ls"):
        raise Broken("The server lists archives that nobody put there.")
    pid = shell.run(f"systemctl show --property MainPID --value {_NAME}").strip()
    user = shell.run(f"stat --format %U /proc/{pid}").strip()
    if user != _NAME:
        raise Broken(f"The server runs as {user}.")
    shell.run(_LOGS, seconds=BOOT)
    shell.run(_LOW_PORT, seconds=BOOT)
    shell.run(_BY_HAND, seconds=BOOT)
    shell.run(f"dpkg --purge {_NAME}", seconds=_INSTALL)
    shell.run(f"! systemctl is-active {_NAME} && test ! -e {_HOME} -a ! -e /etc/default/{_NAME}")
    shell.run("test -e /var/opq/box-updates/tuf/1.root.json")
    return f"installed in {took:.0f} s, signed timestamp {timestamp['signed']['version']}, purged"


def _medium(box: VmBox) -> Path:
    """Make the operator's files: the package, the metadata and the timestamp's key."""
    folder = box.folder / "medium"
    run([str(_SERVER / "build-deb"), str(folder)])
    # These are examples of the package, and examples are not installed in this machine.
    drop_in = (_SERVER / "timestamp.conf").read_text().replace(f"/opt/{_NAME}", _HOME)
    (folder / "timestamp.conf").write_text(drop_in)
    shutil.copy(_SERVER / "low-port.conf", folder)
    shutil.copy(box.keys.timestamp, folder / "key")
    shutil.copy(box.keys.passphrase, folder / "passphrase")
    not_signed_here = shutil.ignore_patterns("timestamp.json")
    shutil.copytree(box.keys.updates / "tuf", folder / "tuf", ignore=not_signed_here)
    return folder


def _bring(box: VmBox, folder: Path) -> None:
    """Copy a folder into the machine, as /medium."""
    archive = box.folder / "medium.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, "medium")
    with _served(box.folder) as port:
        url = f"http://{HOST}:{port}/{archive.name}"
        fetch = f"from urllib.request import urlretrieve; urlretrieve('{url}', '/medium.tar')"
        box.shell.run(f'python3 -c "{fetch}" && tar xf /medium.tar -C /', seconds=BOOT)


@contextmanager
def _served(folder: Path) -> Iterator[int]:
    """Serve a folder on loopback; returns the port."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
