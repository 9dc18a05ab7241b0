"""The box's page in a real browser: the click, the reboot, and each outcome."""

import json
import sys
from pathlib import Path

import pytest_twisted
from playwright.sync_api import Dialog, expect

from opq_twisted.archive.name import UpdateName
from opq_twisted.http.guards.password import PasswordHash
from tests.browser import chromium, gallery
from tests.functional.box import INSTALL, Answer, Box, Gate, RawServer, Spawn, archive, http
from tests.functional.conftest import StartBox
from tests.functional.tabs import IN_BROWSER, Tabs
from tests.helpers.archives import make_archive
from tests.helpers.torture import sample

NEW, NEWER = 1600000000, 1700000000

pytestmark = IN_BROWSER


@pytest_twisted.ensureDeferred
async def test_update(start_box: StartBox, box: Box, gate: Gate, updates: Path, tabs: Tabs) -> None:
    """One page shows the click, each stage, the output, the reboot, and the result."""
    archive(updates, NEW, INSTALL + gate.wait.encode())
    await start_box()
    tab = await tabs.open(box.agent.url)
    await tab.headline("The box has not checked for updates since it started")
    await tab.click("Check now")
    await tab.headline("An update is available")
    await tab.shows("is ready to install", "installs releases without checking who made them")
    assert str(NEW) in await tab.html("#available")

    await tab.click()
    await tab.current_stage("Install")
    await tab.headline("Updating the box")
    await tab.shows(f"installing {NEW}")
    await tab.do(lambda page: expect(page.get_by_role("button")).to_have_count(0))
    # The page can be reloaded in any stage.
    await tab.do(lambda page: page.reload())
    await tab.current_stage("Install")
    await tab.shows(f"installing {NEW}")
    # The page must receive the event of the reboot to show it.
    await tab.hears()

    gate.open()
    await box.agent.ends()
    await tab.headline("The box is rebooting")
    await box.start_again()
    await tab.headline("The box has been updated")
    await tab.shows("The box runs the release of ")
    assert str(NEW) in await tab.html("#installed")
    await tab.do(
        lambda page: expect(page.locator("#history li")).to_have_attribute(
            "data-outcome", "updated"
        )
    )
    await tab.click("Check now")
    await tab.headline("The box is up to date")


@pytest_twisted.ensureDeferred
async def test_report(start_box: StartBox, box: Box, updates: Path, tabs: Tabs) -> None:
    """The last report is shown as soon as it is sent, and stays unfolded."""
    archive(updates, NEW, b"#!/bin/sh\nexit 7\n")
    await start_box()
    tab = await tabs.open(box.agent.url)
    await tab.hears()
    await tab.do(lambda page: page.get_by_text("What this box tells the update server").click())
    await tab.shows("none since the agent started")
    await tab.update()
    await tab.shows("The update server takes no reports", f'"release": {NEW},')


@pytest_twisted.ensureDeferred
async def test_download(box: Box, raw: RawServer, tmp_path: Path, tabs: Tabs) -> None:
    """A download shows its progress."""
    content = make_archive(tmp_path / "update", NEW, script=INSTALL * 400).read_bytes()
    half = http(content)[: -len(content) // 2]
    raw.answers |= {
        "/version": Answer(http(str(NEW).encode())),
        f"/update/{UpdateName(NEW)}": Answer(half, closes=False),
    }
    await box.start_with(raw.url)
    tab = await tabs.open(box.agent.url)
    await tab.update()
    await tab.current_stage("Download")
    await tab.shows(" MB a second")
    for _ in range(2):
        value = await tab.do(lambda page: page.locator("#bar").evaluate("bar => bar.value"))
        # Half of the download, which is a part of the update.
        assert 0.05 < value < 0.2
        await tab.do(lambda page: page.reload())
        await tab.current_stage("Download")
        await tab.shows(" MB a second")


@pytest_twisted.ensureDeferred
async def test_went_back(start_box: StartBox, box: Box, updates: Path, tabs: Tabs) -> None:
    """After a release that fails the box goes back to the last good one, and the page says why."""
    archive(updates, NEW)
    await start_box()
    tab = await tabs.open(box.agent.url)
    await tab.update()
    await box.agent.ends()
    await box.start_again()
    await tab.shows("The box runs the release of ")

    archive(updates, NEWER, b"#!/bin/sh\necho it cannot be\nexit 7\n")
    await tab.click("Check now")
    await tab.headline("An update is available")
    await tab.click()
    await box.agent.ends()
    await box.start_again()
    await tab.headline("The box went back to its last good release")
    assert "exit status 7" in await tab.text("#message")
    assert "exit status 7" not in await tab.text("#past")
    outcomes = '#history li[data-outcome="returned"] + li[data-outcome="updated"]:last-child'
    await tab.do(lambda page: expect(page.locator(outcomes)).to_have_count(1))
    assert "it cannot be\n" in box.log.read_text()


@pytest_twisted.ensureDeferred
async def test_failed(start_box: StartBox, box: Box, gate: Gate, updates: Path, tabs: Tabs) -> None:
    """Without a last good release the page shows the failure and the output of the script."""
    script = f"#!/bin/sh\necho first\n{gate.wait}echo '<b>it cannot be</b>'\nexit 7\n"
    archive(updates, NEW, script.encode())
    await start_box()
    tab = await tabs.open(box.agent.url)
    await tab.update()
    await tab.shows("first")
    gate.open()
    await tab.headline("The last update failed")
    await tab.shows("install_update.sh ended with exit status 7")
    # The output of an installer is shown as text.
    await tab.shows("<b>it cannot be</b>")


@pytest_twisted.ensureDeferred
async def test_unreachable(box: Box, tabs: Tabs) -> None:
    """The page has a sentence about an unreachable server, and about an unreachable box."""
    await box.start_with("http://127.0.0.1:9")
    tab = await tabs.open(box.agent.url)
    await tab.click("Check now")
    await tab.headline("The box cannot get updates")
    await tab.shows("Cannot reach the update server http://127.0.0.1:9")
    await box.agent.stop()
    await tab.headline("The box does not answer")
    await box.start_again()
    await tab.headline("The box has not checked for updates since it started")


@pytest_twisted.ensureDeferred
async def test_password(box: Box, tmp_path: Path, tabs: Tabs) -> None:
    """A click works with the password only."""
    (tmp_path / "password").write_text(f"{PasswordHash.of('open sesame')}\n")
    await box.start_with("http://127.0.0.1:9", web_password_file=str(tmp_path / "password"))
    for password, answer in (
        ("a guess", "password"),
        ("open sesame", "Cannot reach the update server http://127.0.0.1:9"),
    ):
        credentials = {"username": "opq", "password": password}
        tab = await tabs.open(box.agent.url, http_credentials=credentials)
        await tab.click("Check now")
        await tab.shows(answer)


@pytest_twisted.ensureDeferred
async def test_hidden(box: Box, tabs: Tabs) -> None:
    """A hidden page keeps no connection, because a browser has few for each host."""
    await box.start_with("http://127.0.0.1:9")
    tab = await tabs.open(box.agent.url)
    for hidden, state in (("true", 2), ("false", 1)):
        await tab.do(
            lambda page, hidden=hidden: page.evaluate(  # type: ignore[misc]
                f"Object.defineProperty(document, 'hidden', {{value: {hidden}, "
                "configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
            )
        )
        await tab.do(
            lambda page, state=state: page.wait_for_function(  # type: ignore[misc]
                "state => source.readyState === state", arg=state
            )
        )


@pytest_twisted.ensureDeferred
async def test_without_script(
    start_box: StartBox, box: Box, gate: Gate, updates: Path, tabs: Tabs
) -> None:
    """Without JavaScript the page has the button and the status, and reloads itself."""
    archive(updates, NEW, INSTALL + gate.wait.encode())
    await start_box()
    tab = await tabs.open(box.agent.url, java_script_enabled=False)
    await tab.update()
    await tab.do(lambda page: page.wait_for_url(f"{box.agent.url}/"))
    # The page reloads itself until then.
    await tab.current_stage("Install")
    gate.open()
    await box.agent.ends()
    await box.start_again()
    await box.shows(lambda status: status["stage"] == "idle")
    await tab.do(lambda page: page.goto(f"{box.agent.url}/"))
    await tab.headline("The box has been updated")
    await tab.shows("The box runs the release of ")


@pytest_twisted.ensureDeferred
async def test_another_page(
    start_box: StartBox, box: Box, raw: RawServer, updates: Path, tabs: Tabs
) -> None:
    """Another page's form, image, script, link, frame and requests start no update."""
    archive(updates, NEW)
    await start_box()
    target = f"{box.agent.url}/box_update"
    page = f"""<!doctype html><title>elsewhere</title>
<img src="{target}"><script src="{target}"></script><link rel="prefetch" href="{target}">
<iframe src="{target}"></iframe><iframe src="{box.agent.url}/"></iframe>
<iframe name="hidden"></iframe>
<form method="post" action="{target}" target="hidden"></form>
<script>
document.forms[0].submit();
const tries = [
  fetch("{target}", {{method: "POST", mode: "no-cors"}}),
  fetch("{target}", {{mode: "no-cors"}}),
  fetch("{box.agent.url}/forgive", {{method: "POST", mode: "no-cors", body: "release={NEW}"}}),
];
Promise.allSettled(tries).then(() => setTimeout(() => {{ document.title = "tried"; }}, 500));
</script>"""
    raw.answers["/"] = Answer(http(page.encode(), "Content-Type: text/html"))
    tab = await tabs.open(raw.url.replace("127.0.0.1", "localhost"))
    await tab.do(lambda page: page.wait_for_function("document.title === 'tried'"))
    assert box.stages == []
    assert (await box.status())["last_attempt"] is None
    # The box's page is not shown inside another page either.
    framed = await tab.do(lambda page: [frame.content() for frame in page.frames])
    assert not any("Update Box" in content for content in framed)


@pytest_twisted.ensureDeferred
async def test_accessible(spawn: Spawn, tabs: Tabs) -> None:
    """In each state, light and wide or dark and narrow, axe finds no violation."""
    served = spawn(sys.executable, "-m", "tests.browser.gallery")
    said = await served.says(r"(\{.*\})")
    ports = json.loads(said[1])
    assert set(ports) == set(gallery.STATES)
    for state, port in sample([*ports.items()], 3):
        for scheme, width in (("light", 800), ("dark", 320)):
            tab = await tabs.open(
                f"http://127.0.0.1:{port}/",
                color_scheme=scheme,
                viewport={"width": width, "height": 600},
            )
            await tab.do(lambda page: page.locator("body[data-live]").wait_for())
            found = await tab.do(lambda page: chromium.complaints(page))
            assert found == [], (state, scheme, width)


@pytest_twisted.ensureDeferred
async def test_stopped(spawn: Spawn, tabs: Tabs) -> None:
    """The page asks once more before a click installs a release that has been stopped."""
    served = spawn(sys.executable, "-m", "tests.browser.gallery")
    port = json.loads((await served.says(r"(\{.*\})"))[1])["stopped"]
    tab = await tabs.open(f"http://127.0.0.1:{port}/")
    asked: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    await tab.do(lambda page: page.once("dialog", dismiss))
    await tab.click()
    assert "nevertheless?" in asked[0]
    assert "the operator has stopped it" in await tab.text("#message")
    await tab.headline("An update is available")
    await tab.do(lambda page: page.once("dialog", lambda dialog: dialog.accept()))
    await tab.click()
    await tab.headline("Looking for an update")


@pytest_twisted.ensureDeferred
async def test_keyboard(start_box: StartBox, box: Box, tabs: Tabs) -> None:
    """The buttons can be reached and pressed with the keyboard alone."""
    await start_box()
    tab = await tabs.open(box.agent.url)
    await tab.do(lambda page: page.keyboard.press("Tab"))
    assert await tab.text("*:focus") == "Check now"
    await tab.do(lambda page: page.keyboard.press("Enter"))
    await tab.shows("The update server has no update.")
    # That button is gone, and the focus is on the other one.
    await tab.do(lambda page: expect(page.locator("#again")).to_be_focused())
