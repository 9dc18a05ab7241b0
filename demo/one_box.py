"""Shows a whole update: builds, signs and serves it, and lets a box in a folder install it."""

import json
import shutil
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from demo.box import Box
from demo.folder import claim_port
from demo.programs import ROOT, START_TIMEOUT, kill_orphans, run
from demo.signer import Signer
from demo.terminal import DemoFailed, say, step
from demo.update_server import start_server
from opq_twisted.archive.extract.unpack import unpack


class OneBoxDemo:
    """A server, a box and the keys to the releases, in one folder."""

    def __init__(self, folder: Path, click: bool) -> None:
        self._folder = folder
        self._click = click
        self._prefix = folder / "opq"
        self._signer = Signer(folder)
        self._new = int(time.time())

    def show(self) -> int:
        """Build two releases, install the older one, and offer the newer one to the box."""
        name = self._folder.relative_to(ROOT)
        say(f"An update server, a box and keys, all in {name}. Nothing else is changed.")
        old = self._new - 24 * 3600
        with step("1/5 Building yesterday's release"):
            archive = self._build(old, self._folder)
        with step("2/5 Installing it on the box"):
            self._set_up_box(archive, old)
        with step("3/5 Making the keys that the box trusts"):
            self._signer.make_keys()
        with step("4/5 Building today's release, and signing it"):
            self._signer.publish(self._build(self._new, self._folder))
        with ExitStack() as running:
            running.callback(kill_orphans)
            with step("5/5 Starting the server and the box, which looks for updates"):
                server = start_server(running, self._folder, self._signer)
                box = self._start_box(running, server.port, archive)
            say("")
            if self._click:
                say("An update is available. Clicking on Update Box.")
                return box.update(self._new)
            say("An update is available. Open the page of the box, and click on Update Box:")
            say(f"\n    http://localhost:{box.port}/\n")
            say(f"The update server lists its releases at http://localhost:{server.port}/ls")
            say("Ctrl-C ends the demo.")
            server.wait()

    def _build(self, version: int, folder: Path) -> Path:
        """Build an update of this project."""
        builder = ROOT / "build_update.py"
        run(sys.executable, builder, f"--version={version}", f"--output-dir={folder}")
        return folder / f"opq-box-update-{version}.tar.bz2"

    def _set_up_box(self, archive: Path, version: int) -> None:
        """Install a release as on a new box: unpack it, and run its script by hand."""
        unpacked = self._folder / "unpacked"
        unpack(archive, unpacked, version)
        run("./install_update.sh", folder=unpacked, OPQ_PREFIX=str(self._prefix))
        shutil.rmtree(unpacked)

    def _start_box(self, running: ExitStack, server_port: int, archive: Path) -> Box:
        """Start the box with the archive of its release, and wait until it finds the update."""
        box = Box(self._folder, self._prefix, claim_port(8080))
        settings = {
            "prefix": str(self._prefix),
            "log": str(self._folder / "box_update.log"),
            "trusted_root": str(self._signer.trusted_root),
            "reboot_command": ["sh", "-c", f'kill "$(cat "{box.pid_file}")"'],
            "settle": 3,
            # There is only one box, so a random delay is not necessary.
            "spread": 0,
        }
        config = {"updates_ep": f"http://127.0.0.1:{server_port}", "box_id": 1, "updater": settings}
        box.config.write_text(json.dumps(config, indent=2) + "\n")
        box.adopt(archive)
        archive.unlink()
        running.callback(box.stop)
        box.start()
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(OSError):
                if box.ask("status")["update_available"]:
                    return box
            time.sleep(0.1)
        raise DemoFailed(f"The box does not find the update; see {box.log}.")
