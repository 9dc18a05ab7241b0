"""The compared servers, each in its own processes, on a free port of loopback."""

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from statistics import median

from attrs import evolve, frozen

#: The seconds after which an inactive server or client has failed.
TIMEOUT = 60

_CORES = sorted(os.sched_getaffinity(0))
#: The cores of the servers and of the clients; the same if there is only one.
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]

#: Descriptors for all but connections: our server keeps 2000 for downloads, or a third of few.
_RESERVE = 2200

#: The figures of one measurement.
Figures = tuple[float, ...]

_ROOT = Path(__file__).resolve().parent.parent
_TWISTD = (str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile=")

#: It is missing from the PATH of some users.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

#: Debian's configuration, but with one worker and persistent connections.
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
        listen 127.0.0.1:{port} backlog=4096{tls};
        {locations}
    }}
}}
"""


@frozen
class Certificate:
    """The files of a certificate for 127.0.0.1, and of its key."""

    key: Path
    path: Path


@frozen
class Server:
    """A listening server."""

    name: str
    port: int
    #: The process that does the work.
    pid: int
    #: Whether it serves HTTPS.
    is_encrypted: bool = False

    def cpu(self) -> float:
        """
        Tell the seconds of CPU that its process has used.

        This is the clock of clock_getcpuclockid(3): the threads that have ended are in it, which
        are missing in `/proc/PID/task/*/schedstat`.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """Return the most resident memory that it ever had, in bytes."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def settle(self, quiet: float = 0.3) -> None:
        """Wait until the server is idle."""
        until = time.monotonic() + TIMEOUT
        before = -1.0
        while (now := self.cpu()) - before > quiet / 20:
            if time.monotonic() > until:
                raise SystemExit(f"{self.name} does not come to rest.")
            before = now
            time.sleep(quiet)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this process, and the children that it starts, on this core alone."""
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


def in_turn(
    rounds: int, ours: Callable[[], Figures], theirs: Callable[[], Figures]
) -> tuple[list[float], list[float]]:
    """Measure our server and a peer in turn; returns the median of each figure of both."""
    measured = [(ours(), theirs()) for _ in range(rounds)]
    one, other = zip(*measured, strict=True)
    return _medians(one), _medians(other)


def _medians(measured: tuple[Figures, ...]) -> list[float]:
    return [median(figures) for figures in zip(*measured, strict=True)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@contextmanager
def started(
    name: str, port: int, command: list[str], folder: Path, place: Path, *, tls: bool = False
) -> Iterator[Server]:
    """Start a server in a folder, on its core, and wait until it listens; its log is in `place`."""
    log = place / f"{name}.log"
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with log.open("wb") as output, on_core(SERVER_CORE):
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + TIMEOUT
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(command)} does not listen:\n{log.read_text()}")
            time.sleep(0.001)
        yield Server(name, port, process.pid, tls)
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
    except ConnectionRefusedError:
        return False
    return True


def update_server(
    updates: Path,
    place: Path,
    certificate: Certificate | None = None,
    options: Sequence[str] = (),
) -> AbstractContextManager[Server]:
    """Start our server with its access log in a file; `options` are added to its defaults."""
    port = free_port()
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    if certificate is not None:
        endpoint = f"ssl:{port}:interface=127.0.0.1"
        endpoint += f":privateKey={certificate.key}:certKey={certificate.path}"
    command = [*_TWISTD, "opq-update-server", "--port", endpoint, "--updates-dir", str(updates)]
    command += options
    return started("ours", port, command, updates, place, tls=certificate is not None)


def twistd_web(name: str, option: str, folder: Path, place: Path) -> AbstractContextManager[Server]:
    """Start `twistd web`, which logs to a file, with an option for the served content."""
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
    """Whether nginx is installed; otherwise print that loudly."""
    if NGINX is None:
        print("NOT COMPARED WITH NGINX: it is not installed", flush=True)
    return NGINX is not None


@contextmanager
def nginx(locations: str, place: Path, certificate: Certificate | None = None) -> Iterator[Server]:
    """Start nginx with one worker process, which is measured."""
    assert NGINX is not None
    port = free_port()
    # Otherwise its worker could not enter root's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    tls = ""
    if certificate is not None:
        # Debian's nginx does not speak TLS 1.3 by default.
        tls = (
            f" ssl; ssl_protocols TLSv1.3; "
            f"ssl_certificate {certificate.path}; ssl_certificate_key {certificate.key}"
        )
    config = place / "nginx.conf"
    config.write_text(_NGINX.format(user=user, port=port, tls=tls, locations=locations))
    command = [NGINX, "-p", str(place), "-e", "nginx.error", "-c", str(config)]
    name = "nginx over TLS" if tls else "nginx"
    with started(name, port, command, place, place, tls=bool(tls)) as master:
        yield evolve(master, pid=_child_of(master.pid))


def _child_of(pid: int) -> int:
    """Wait for the only child of a process."""
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        for status in Path("/proc").glob("[0-9]*/status"):
            # The process may have ended.
            with suppress(OSError):
                if f"\nPPid:\t{pid}\n" in status.read_text():
                    return int(status.parent.name)
        time.sleep(0.01)
    raise SystemExit("nginx has no worker.")
