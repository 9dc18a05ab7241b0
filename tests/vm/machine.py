"""Runs one machine in QEMU, and cuts its power."""

import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from tests.vm.image import Image
from tests.vm.report import Broken

#: The host's address as seen from the machine, and the port of the machine's page.
HOST, PAGE = "10.0.2.2", 8080

_APPEND = "root=/dev/vda rw console=ttyS0 loglevel=4 mitigations=off panic=1"
_MEMORY = 1024
_PROCESSORS = 2

#: Seconds between two looks at the console.
_POLL_INTERVAL = 0.02

#: The line that systemd prints once in each boot.
BOOTS = r"Welcome to .*Debian"

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


_running: set["Machine"] = set()
_all_off = threading.Event()


class Machine:
    """
    One machine with a disk of its own.

    The disk is a qcow2 over another one, written with cache=writeback. What is lost when QEMU is
    killed is what the machine has not sent to its disk; and, of that, what it has sent and not yet
    flushed may be lost as well, for QEMU keeps qcow2's tables in its own memory until then. So it
    is with a disk that has a cache.
    """

    def __init__(self, image: Image, backing: Path, folder: Path, page_port: int) -> None:
        """
        Make the disk.

        :param backing: the original disk, which is never changed.
        :param folder: the folder of the disk and of the console's output.
        :param page_port: the port of this host that is forwarded to the box's page.
        """
        self.disk = folder / "disk.qcow2"
        self._image = image
        self._console = folder / "console.log"
        self._page_port = page_port
        self._qemu: subprocess.Popen[bytes] | None = None
        # A path of a socket may have 107 bytes.
        self._run = Path(tempfile.mkdtemp(prefix="opq-vm-"))
        #: The socket of the machine's shell.
        self.shell_socket = self._run / "shell"
        make_disk(self.disk, backing)

    def boot(self, *, wants: str = "", medium: Path | None = None) -> None:
        """
        Switch the machine on.

        :param wants: a unit to start in this boot.
        :param medium: a second disk.
        """
        assert self._qemu is None, "it is on already"
        if _all_off.is_set():
            raise Broken("No machine is switched on any more.")
        self._console.touch()
        self._qemu = subprocess.Popen(self._command(wants, medium), stdin=subprocess.DEVNULL)
        _running.add(self)
        deadline = time.monotonic() + 30
        while not self.shell_socket.exists():
            if self._qemu.poll() is not None or time.monotonic() > deadline:
                raise Broken("QEMU did not start.")
            time.sleep(_POLL_INTERVAL)

    def cut(self) -> None:
        """Cut the power."""
        _running.discard(self)
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None
            self.shell_socket.unlink(missing_ok=True)

    def wait_off(self, seconds: float) -> None:
        """Wait until the machine has switched itself off."""
        assert self._qemu is not None
        try:
            self._qemu.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Broken("The machine did not switch itself off.") from None
        finally:
            self.cut()

    def close(self) -> None:
        """Cut the power, and remove all files except the folder."""
        self.cut()
        shutil.rmtree(self._run, ignore_errors=True)

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def console(self) -> str:
        """The text of all boots."""
        text = self._console.read_bytes().decode("utf-8", "replace")
        return _COLOURS.sub("", text).replace("\r", "")

    @property
    def boots(self) -> int:
        """How often the machine has booted."""
        return len(re.findall(BOOTS, self.console))

    def says(self, pattern: str, seconds: float, after: int = 0) -> re.Match[str]:
        """
        Wait until the console shows a regular expression.

        :param after: the number of skipped characters at the start.
        """
        deadline = time.monotonic() + seconds
        while True:
            if match := re.search(pattern, self.console[after:]):
                return match
            self.must_run()
            if time.monotonic() > deadline:
                raise Broken(f"The machine did not say {pattern!r} within {seconds:.0f} seconds.")
            time.sleep(_POLL_INTERVAL)

    def must_run(self) -> None:
        """Make sure that the machine is on."""
        if self._qemu is None or self._qemu.poll() is not None:
            raise Broken("The machine is off.")

    def _command(self, wants: str, medium: Path | None) -> list[str]:
        append = f"{_APPEND} systemd.wants={wants}" if wants else _APPEND
        second = [f"-drive=file={medium},format=raw,if=virtio,readonly=on"] if medium else []
        options = {
            "machine": "q35",
            "accel": "tcg,thread=multi",
            "cpu": "Nehalem",
            "smp": str(_PROCESSORS),
            "m": str(_MEMORY),
            "display": "none",
            "kernel": str(self._image.kernel),
            "initrd": str(self._image.initrd),
            "append": append,
        }
        return [
            # The machine ends with this process in any case.
            *("setpriv", "--pdeathsig=KILL"),
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config"),
            *(part for name, value in options.items() for part in (f"-{name}", value)),
            *("-drive", f"file={self.disk},format=qcow2,if=virtio,cache=writeback"),
            *(part for option in second for part in option.split("=", 1)),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self._page_port}-:{PAGE}"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=shell,path={self.shell_socket},server=on,wait=off"),
            *("-device", "virtserialport,chardev=shell,name=opq.shell"),
            *("-chardev", f"file,id=console,path={self._console},append=on"),
            *("-serial", "chardev:console"),
        ]


def switch_all_off() -> None:
    """Switch off every machine, and start no other."""
    _all_off.set()
    for machine in tuple(_running):
        machine.cut()


def make_disk(disk: Path, backing: Path) -> None:
    """Make a disk that starts as a copy of another one."""
    form = "raw" if backing.suffix == ".img" else "qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", backing.absolute(), disk],
        check=True,
    )
