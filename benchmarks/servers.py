"""Servers to compare: each in processes of its own, on a free port of loopback."""

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from attrs import evolve, frozen

#: Seconds after which a server or a client that does nothing has failed.
PATIENCE = 60

_CORES = sorted(os.sched_getaffinity(0))
#: Where servers run, and what asks them; the same where there is but one.
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]

#: Descriptors for all but connections: our server keeps 2000 for downloads, or a third of few.
_RESERVE = 2200

_ROOT = Path(__file__).resolve().parent.parent
_TWISTD = (str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile=")

#: Not every user's PATH has it.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

#: As Debian has it, but for one worker and connections that need not be made anew.
_NGINX = """
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
events {{ worker_connections 16000; }}
http {{
    access_log access.log;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        {locations}
    }}
}}
"""


@frozen
class Server:
    """A server that listens."""

    name: str
    port: int
    #: The process that does the work.
    pid: int

    def cpu(self) -> float:
        """
        Tell the seconds of CPU that its process has used.

        This is the clock of clock_getcpuclockid(3): the threads that have ended are in it, which
        are missing in `/proc/PID/task/*/schedstat`.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory(self) -> int:
        """Tell the bytes that are resident."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def settle(self, quiet: float = 0.3) -> None:
        """Wait until it has nothing more to do."""
        until = time.monotonic() + PATIENCE
        before = -1.0
        while (now := self.cpu()) - before > quiet / 20:
            if time.monotonic() > until:
                raise SystemExit(f"{self.name} does not come to rest.")
            before = now
            time.sleep(quiet)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run on this core alone, and let run there what is started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def make_room(connections: int) -> int:
    """
    Raise the limit of descriptors of this process, and of what it starts, as far as is allowed.

    :returns: for how many connections there is room, at most `connections`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = min(connections, max(hard - _RESERVE, hard // 3 - 64))
    if room < 1:
        raise SystemExit(f"A process may have only {hard} descriptors: raise `ulimit -Hn`.")
    if room < connections:
        print(f"ONLY {room} CLIENTS: a process may have only {hard} descriptors", flush=True)
    return room


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@contextmanager
def started(
    name: str, port: int, command: list[str], folder: Path, place: Path
) -> Iterator[Server]:
    """Start a server in a folder, on its core, and wait until it listens; `place` gets its log."""
    log = place / f"{name}.log"
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with log.open("wb") as output, on_core(SERVER_CORE):
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + PATIENCE
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(command)} does not listen:\n{log.read_text()}")
            time.sleep(0.001)
        yield Server(name, port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def update_server(updates: Path, place: Path) -> AbstractContextManager[Server]:
    """Start ours as it is by default, with an access log on standard output: a file."""
    port = free_port()
    command = [*_TWISTD, "opq-update-server", "--port", f"tcp:{port}:interface=127.0.0.1"]
    return started("ours", port, [*command, "--updates-dir", str(updates)], updates, place)


def twistd_web(name: str, option: str, folder: Path, place: Path) -> AbstractContextManager[Server]:
    """Start `twistd web`, which logs to a file, with the option that tells what to serve."""
    port = free_port()
    command = [*_TWISTD, "--logfile", str(place / f"{name}.access"), "web", option]
    command += ["--listen", f"tcp:{port}:interface=127.0.0.1:backlog=4096"]
    return started(name, port, command, folder, place)


def static_file(folder: Path, place: Path) -> AbstractContextManager[Server]:
    """Start `twisted.web.static.File` on a folder."""
    return twistd_web("static.File", "--path=.", folder, place)


def peer(name: str, folder: Path, place: Path) -> AbstractContextManager[Server]:
    """Start one of `benchmarks.peers` in a folder."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers", name, str(port)]
    return started(name, port, command, folder, place)


def has_nginx() -> bool:
    """Say whether there is one, and loudly when not."""
    if NGINX is None:
        print("NOT COMPARED WITH NGINX: it is not installed", flush=True)
    return NGINX is not None


@contextmanager
def nginx(locations: str, place: Path) -> Iterator[Server]:
    """Start nginx with one worker, which is what is measured."""
    assert NGINX is not None
    port = free_port()
    # Its worker could not enter a folder of root's otherwise.
    user = "user root;" if os.geteuid() == 0 else ""
    config = place / "nginx.conf"
    config.write_text(_NGINX.format(user=user, port=port, locations=locations))
    command = [NGINX, "-p", str(place), "-e", "nginx.error", "-c", str(config)]
    with started("nginx", port, command, place, place) as master:
        yield evolve(master, pid=_child_of(master.pid))


def _child_of(pid: int) -> int:
    """Wait for a process's only child."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for status in Path("/proc").glob("[0-9]*/status"):
            # A process may be gone by now.
            with suppress(OSError):
                if f"\nPPid:\t{pid}\n" in status.read_text():
                    return int(status.parent.name)
        time.sleep(0.01)
    raise SystemExit("nginx has no worker.")
