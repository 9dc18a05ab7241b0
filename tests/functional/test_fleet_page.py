"""The page of the fleet with a real server: who gets in, what an operator does, and what lasts."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field

from opq_twisted.fleet.web.operators import Operator, Role, TokenHash
from opq_twisted.http.guards.password import PasswordHash
from tests.functional.conftest import StartDaemon
from tests.functional.fleet import OPQ_FLEET, short_folder
from tests.functional.nginx import free_port, replaced
from tests.functional.processes import curl, require, run, succeed, until
from tests.functional.test_pace import RELEASE, Site
from tests.helpers.certificates import make_certificate
from tests.helpers.project import PROJECT

PASSWORD, TOKEN = "correct horse battery", "a token of a program"
NGINX = PROJECT / "deploy" / "server" / "nginx-fleet.conf"
BROWSER = ("-H", "Accept: text/html")


@define
class PageServer:
    """A server with a release on offer, and a page for two people and a program."""

    site: Site
    folder: Path
    url: str = field(init=False, default="")

    @property
    def operators(self) -> Path:
        """The operators' file."""
        return self.folder / "operators"

    async def opq_fleet(self, *arguments: object) -> str:
        """Run a command for the operators' file."""
        return await succeed(OPQ_FLEET, *arguments, "--operators", self.operators)

    async def start(self, *options: object) -> None:
        """Make the operators, and start the server."""
        hashed = PasswordHash.of(PASSWORD)
        operators = (
            Operator("anna", Role.OPERATOR, hashed),
            Operator("vera", Role.VIEWER, hashed),
            Operator("grafana", Role.VIEWER, TokenHash.of(TOKEN)),
        )
        self.operators.touch(0o640)
        self.operators.write_text("".join(f"{each}\n" for each in operators))
        self.site.socket = self.folder / "fleet.sock"
        port = ("--fleet-port", "tcp:0:interface=127.0.0.1")
        page = ("--fleet-operators", self.operators)
        await self.site.starts("--rollouts", "auto", *page, *port, *options)
        said = await self.site.server.says(r"The page of the fleet is at (\S+)/fleet")
        self.url = said[1]

    async def ask(
        self, path: str, *more: str, who: str | None = f"anna:{PASSWORD}"
    ) -> tuple[int, str]:
        """Send a request with curl; returns the status and the body."""
        login = () if who is None else ("-u", who)
        return await curl(*login, *more, f"{self.url}{path}")

    async def overview(self) -> Any:
        """Return the state of the fleet."""
        status, body = await self.ask("/fleet")
        assert status == 200, body
        return json.loads(body)

    async def hold(self, *more: str, who: str | None = f"anna:{PASSWORD}") -> tuple[int, str]:
        """Hold the release."""
        form = ("-d", f"release={RELEASE}&channel=stable", "--data-urlencode", "because=it's bad")
        return await self.ask("/fleet/hold", *form, *more, who=who)


@pytest.fixture
def page(start: StartDaemon, updates: Path) -> Iterator[PageServer]:
    with short_folder() as folder:
        yield PageServer(Site(start, updates), folder)


@pytest_twisted.ensureDeferred
async def test_guards(page: PageServer) -> None:
    """
    Nobody without a password gets in, a viewer changes nothing, and no other site gets in.

    Who is removed does not get in any more, without a restart; a mistake in the file changes
    nothing.
    """
    await page.start()
    for who in (None, f"nobody:{PASSWORD}"):
        status, _ = await page.ask("/fleet", who=who)
        assert status == 401, who
    for who in (f"anna:{PASSWORD}", f"vera:{PASSWORD}"):
        status, body = await page.ask("/fleet", *BROWSER, who=who)
        assert status == 200
        assert body.startswith("<!doctype html>")
    status, body = await page.ask("/fleet", "-H", f"Authorization: Bearer {TOKEN}", who=None)
    assert (status, json.loads(body)["rollouts"]) == (200, "auto")
    form = ("-d", f"release={RELEASE}&because=x")
    status, body = await page.ask("/fleet/hold", *form, who=f"vera:{PASSWORD}")
    assert status == 403, body
    for header in ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site"):
        status, body = await page.hold("-H", header)
        assert status == 403, body
    status, body = await page.ask("/fleet", "-H", "Host: evil.example")
    assert status == 403, body
    assert not (await page.overview())["held"]
    await page.site.server.says("Somebody at this machine gave a wrong password or token")

    await page.opq_fleet("remove-operator", "anna")
    token = (await page.opq_fleet("add-token", "robot", "--role", "operator")).strip()
    assert (await page.ask("/fleet"))[0] == 401
    status, body = await page.hold("-H", f"Authorization: Bearer {token}", who=None)
    assert status == 200, body
    with page.operators.open("a") as file:
        file.write("anna\n")
    assert (await page.ask("/fleet", who=f"vera:{PASSWORD}"))[0] == 200
    await page.site.server.says(r"operators' file .*, line 4: there must be a name")


@pytest_twisted.ensureDeferred
async def test_behind_nginx(page: PageServer, spawn: StartDaemon) -> None:
    """
    The shipped nginx site puts TLS in front: pages, actions and live numbers go through.

    A hold is in the timestamp, and in the audit with the operator's name and reason.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin") or "nginx"
    require(program)
    await page.start("--fleet-host", "updates.invalid")
    port, folder = free_port(), page.folder / "nginx"
    folder.mkdir()
    make_certificate(folder / "privkey.pem", folder / "fullchain.pem")
    text = replaced(NGINX.read_text(), "listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    text = replaced(text, "listen [::]:443 ssl;", "")
    text = text.replace("/etc/letsencrypt/live/fleet.example.org", str(folder))
    text = text.replace("http://127.0.0.1:8152", page.url)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log stderr notice;\n"
        f"events {{}}\nhttp {{ access_log off; {text} }}\n"
    )
    nginx = spawn(program, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf")
    await nginx.says("start worker process")
    name = f"updates.invalid:{port}"
    through = ("--resolve", f"{name}:127.0.0.1", "--cacert", str(folder / "fullchain.pem"))
    page.url = f"https://{name}"
    status, body = await page.hold(*through, *BROWSER, "-H", f"Origin: {page.url}", "-L")
    assert status == 200, body
    assert f"Release {RELEASE} in stable is held" in body
    _, body = await page.ask("/fleet", *through)
    (change,) = [each for each in json.loads(body)["changes"] if each["what"] == "hold"]
    assert (change["who"], change["because"]) == ("anna", "it's bad")

    async def state() -> Any:
        return (page.site.pace() or {}).get("state")

    await until(state, lambda found: found == "held")
    # The stream does not end: curl stops after the time, and has got its first event.
    events = ("-N", "--max-time", "1", "-u", f"anna:{PASSWORD}", *through)
    _, out, _ = await run("curl", "-s", *events, f"{page.url}/fleet/events")
    assert out.startswith("event: parts\n"), out
