"""Starts nginx with the shipped site in front of update servers, and sends requests to it."""

import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path

from attrs import frozen
from twisted.internet.threads import deferToThread

from tests.functional.conftest import StartDaemon
from tests.functional.processes import ROOT, TIMEOUT, Server, require
from tests.functional.update_server import started

SITE = ROOT / "deploy" / "server" / "nginx-site.conf"
TLS = ROOT / "deploy" / "server" / "nginx-tls.conf"

#: The rest of the configuration; all files that nginx writes are in one folder.
CONFIGURATION = """\
daemon off;
{user}
worker_processes 2;
pid {folder}/pid;
error_log stderr notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    include {folder}/site.conf;
}}
"""


@frozen
class Answer:
    """The response to a request."""

    status: int
    headers: Message
    body: bytes


def fetch(
    server: Server,
    path: str,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    source: str = "127.0.0.1",
) -> Answer:
    """Send a request; redirects are not followed."""
    connection = HTTPConnection(
        "127.0.0.1", server.port, timeout=TIMEOUT, source_address=(source, 0)
    )
    with closing(connection):
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())


async def ask(
    server: Server,
    path: str,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    source: str = "127.0.0.1",
) -> Answer:
    """Send a request in a thread."""
    return await deferToThread(fetch, server, path, headers, method, source)


def replaced(text: str, old: str, new: str) -> str:
    """Replace a text that must occur once."""
    assert text.count(old) == 1, f"{SITE} has not one {old!r}"
    return text.replace(old, new)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def configure(folder: Path, port: int, origins: tuple[str, ...]) -> None:
    """Write the shipped site with other ports, servers and cache folders."""
    folder.mkdir(exist_ok=True)
    site = replaced(SITE.read_text(), "listen 80;", f"listen 127.0.0.1:{port};")
    site = replaced(site, "listen [::]:80;", "")
    servers = "".join(f"server {origin.removeprefix('http://')};" for origin in origins)
    site = replaced(site, "server 127.0.0.1:8151;", servers)
    site = replaced(site, "/var/cache/nginx/opq-updates", f"{folder}/cache")
    site = replaced(site, "/var/www/html", f"{folder}/html")
    (folder / "site.conf").write_text(site)
    # Another user cannot enter a test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(CONFIGURATION.format(user=user, folder=folder))


def use_tls(folder: Path) -> int:
    """Write the shipped settings for TLS with another port and certificate; returns the port."""
    port = free_port()
    settings = replaced(TLS.read_text(), "listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    settings = replaced(settings, "listen [::]:443 ssl;", "")
    settings = settings.replace("/etc/letsencrypt/live/updates.example.org", str(folder))
    (folder / "snippets").mkdir(parents=True)
    (folder / "snippets" / "opq-updates-tls.conf").write_text(settings)
    return port


async def in_front_of(spawn: StartDaemon, folder: Path, *origins: str) -> Server:
    """Start nginx with the shipped site in front of these servers."""
    # On Debian it is in a folder that only root's PATH has.
    program = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin") or "nginx"
    require(program)
    port = free_port()
    configure(folder, port, origins)
    nginx = spawn(program, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf")
    nginx.port = port
    # It listens before its workers run.
    await nginx.says("start worker process")
    return nginx


async def cached(
    start: StartDaemon, spawn: StartDaemon, updates: Path, *options: object
) -> tuple[Server, Server]:
    """Start a server, and nginx in front of it."""
    origin = await started(start, updates, *options)
    return origin, await in_front_of(spawn, updates.parent / "nginx", origin.url)
