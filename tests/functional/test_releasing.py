"""The commands of docs/releasing.md do what the page says, and real clients accept the results."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
import pytest_twisted
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Root
from twisted.internet.defer import Deferred

from opq_twisted.trust.offer import Offer, Rollout, read_offer
from opq_twisted.trust.tuf_client import Fetched, Need, look_up
from tests.functional.box import Spawn
from tests.functional.conftest import StartDaemon
from tests.functional.fleet import short_folder
from tests.functional.processes import BUILDER, ROOT, Server, get, require, run
from tests.functional.release_tool import PROGRAM
from tests.functional.update_server import started
from tests.helpers.documentation import Block, blocks

PAGE = ROOT / "docs" / "releasing.md"

#: The releases of the page, in the order in which it builds them.
RELEASE, NEWER, NEWEST = 1547860803, 1547947203, 1548033603

#: The beginning of the id of Carla's key in the page.
CARLA = "0a1b2c3d4e5f"

HOLDERS = ("anna", "ben", "carla")

#: The sections that begin from nothing, in folders of their own.
APART = ("One key only", "Two holders on two machines")

# The page's own tools, with what is not the same here: the builder fetches no packages and is told
# the versions of the page, keys are made that can be opened in no time, and no machine is far away.
RSH = """\
#!/bin/sh
shift && exec sh -c "$*"
"""


class Place:
    """The machines of the page and the media between them, each a folder."""

    def __init__(self, folder: Path, release_tool: str) -> None:
        """:param release_tool: the text of the program `opq-release`."""
        self.folder = folder
        self.release, self.ben, self.server = (
            folder / name for name in ("release", "ben", "server")
        )
        self.updates = self.server / "box-updates"
        self.media = folder / "media"
        self.bin = folder / "bin"
        for each in (
            *(self.release, self.ben, self.updates / "tuf", self.bin),
            *(self.media / name for name in (*HOLDERS, "stick")),
        ):
            each.mkdir(parents=True)
        self._tool(self.release / "build_update.py", BUILDER)
        self._tool(self.bin / "opq-release", release_tool)
        self._tool(self.bin / "rsh", RSH)

    def _tool(self, path: Path, text: str) -> None:
        path.write_text(text.format(python=sys.executable, root=ROOT))
        path.chmod(0o755)

    @property
    def carla(self) -> str:
        """The beginning of the id of Carla's key."""
        [key] = (self.media / "carla").glob("root-*.pem")
        return key.stem.removeprefix("root-")

    async def type(self, block: Block) -> str:
        """Run the lines of a block on their machine; returns their output."""
        first = block.script.partition("\n")[0]
        machine = {"# on Ben's machine": self.ben, "# on the server": self.server}
        script = block.script.replace("/media/", f"{self.media}/")
        script = script.replace("/var/opq/", f"{self.server}/")
        if CARLA in script:
            script = script.replace(CARLA, self.carla)
        paths = os.pathsep.join(
            [str(self.bin), os.fspath(Path(sys.executable).parent), os.environ["PATH"]]
        )
        status, out, error = await run(
            *("env", "-u", "OPQ_TIMESTAMP_PASSPHRASE", f"PATH={paths}"),
            *("OPQ_RELEASE_PASSPHRASE=open sesame", f"PYTHONPATH={ROOT}"),
            *(f"RSYNC_RSH={self.bin}/rsh", f"OPQ_UPDATES_DIR={self.release}/updates"),
            *("bash", "-euo", "pipefail", "-c", script),
            folder=machine.get(first, self.release),
        )
        assert status == 0, f"{block.section}:\n{script}\n{out}{error}"
        return out


def require_printed(block: Block, out: str) -> None:
    """Check that the output is that of the page."""
    for line in block.printed.splitlines():
        pattern = re.escape(line).replace("…", ".*")
        assert re.search(f"^{pattern}$", out, re.MULTILINE), f"{block.section}: {line}\n{out}"


@pytest.fixture
def release_tool(spawn: Spawn) -> Iterator[str]:
    """Give the text of a program `opq-release` that starts in no time."""
    with short_folder() as folder:
        path = folder / "socket"
        server = spawn(sys.executable, "-m", "tests.functional.release_tool", path)
        pytest_twisted.blockon(Deferred.fromCoroutine(server.says("ready")))
        yield PROGRAM.format(python=sys.executable, path=path)


class NetworkTufClient:
    """The TUF client of a box, with a cache of the metadata."""

    def __init__(self, root: Path, cache: Path) -> None:
        """:param root: the file of the trusted root."""
        self._root = root.read_bytes()
        self._cache = cache
        cache.mkdir()

    async def asks(self, server: Server, channel: str = "stable") -> Offer | None:
        """Look up the newest release of a channel, as the agent does."""
        url, fetched = f"{server.url}/tuf/", Fetched()
        while True:
            try:
                target = look_up(self._cache, url, self._root, fetched, channel)
            except Need as need:
                fetched.keep(need.url, await answer(need.url))
            else:
                return None if target is None else read_offer(target)

    @property
    def root_version(self) -> int:
        """The version of the box's newest root."""
        return Metadata[Root].from_file(str(self._cache / "root.json")).signed.version


async def answer(url: str) -> bytes | DownloadHTTPError:
    try:
        return await get(url)
    except HTTPError as error:
        return DownloadHTTPError(str(error), error.code)


class Story:
    """The whole page, with a server and a box."""

    def __init__(self, folder: Path, start: StartDaemon, release_tool: str) -> None:
        self.place = Place(folder, release_tool)
        self._start = start
        self.server: Server | None = None
        self.box: NetworkTufClient | None = None
        #: The offers in `stable` after each copy to the server.
        self.offers: list[Offer | None] = []

    async def goes_on(self, block: Block) -> None:
        """Run a block, and the steps of the others on the page."""
        out = await self.place.type(block)
        require_printed(block, out)
        if "handed-over" in block.script:
            await self._start_server(self.place.release / "handed-over")
            self.box = NetworkTufClient(
                self.place.release / "root.json", self.place.folder / "cache"
            )
        if re.search("rotate .*timestamp", block.script):
            await self._start_server(self.place.release, "opq-keys/")
        if "opq-release push" in block.script:
            self.offers.append(await self.is_offered())
        if block.script.startswith("# on the server"):
            assert out == ""

    async def _start_server(self, folder: Path, keys: str = "") -> None:
        if self.server is not None:
            await self.server.stop()
        [key] = folder.glob(f"{keys}timestamp-*.pem")
        self.server = await started(
            *(self._start, self.place.updates, "--timestamp-key", key),
            *("--timestamp-passphrase-file", folder / "timestamp.passphrase"),
        )

    async def is_offered(self, channel: str = "stable") -> Offer | None:
        """Look up the newest release after the server has announced the newest snapshot."""
        assert self.server is not None
        assert self.box is not None
        numbers = [
            int(path.name.partition(".")[0])
            for path in (self.place.updates / "tuf").glob("*.snapshot.json")
        ]
        await self.server.says(rf"signed timestamp \d+ for {max(numbers)}\.snapshot\.json")
        return await self.box.asks(self.server, channel)


def terms(offer: Offer | None) -> tuple[object, ...] | None:
    """Summarise the terms of an offer."""
    if offer is None:
        return None
    percent = offer.rollout.percent if isinstance(offer.rollout, Rollout) else None
    return offer.version, percent, offer.critical, offer.allow_downgrade


@pytest_twisted.ensureDeferred
async def test_page(tmp_path: Path, start: StartDaemon, release_tool: str) -> None:
    """A box follows all steps of the page from the first root on."""
    for program in ("openssl", "rsync"):
        require(program)
    story = Story(tmp_path, start, release_tool)
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        if block.section not in APART:
            await story.goes_on(block)
        if block.section == "Channels":
            assert terms(await story.is_offered("beta")) == (NEWER, None, False, False)
        if block.section == "A channel that ends":
            assert await story.is_offered("beta") is None
    back = (RELEASE, None, False, True)
    new = (NEWEST, None, False, False)
    assert list(map(terms, story.offers)) == [
        None,
        *[(RELEASE, None, False, False)] * 3,
        *((NEWER, 10, False, False), (NEWER, None, False, False)),
        (NEWER, None, True, False),
        *[back] * 7,
        *[new] * 2,
    ]
    assert story.server is not None
    assert story.box is not None
    assert story.box.root_version == 7
    fresh = NetworkTufClient(story.place.release / "root.json", tmp_path / "fresh")
    assert terms(await fresh.asks(story.server)) == new


@pytest_twisted.ensureDeferred
async def test_other_ceremonies(tmp_path: Path, release_tool: str) -> None:
    """The other ceremonies of the page make their promised roots."""
    require("openssl")
    made = {}
    for number, section in enumerate(APART):
        place = Place(tmp_path / str(number), release_tool)
        for block in blocks(PAGE.read_text(encoding="utf-8")):
            if block.section == section:
                require_printed(block, await place.type(block))
        path = place.release / "updates" / "tuf" / "1.root.json"
        made[section] = Metadata[Root].from_file(str(path))
        assert not list(place.media.glob("stick/*.draft.json"))
    sizes = [(root.signed.roles["root"].threshold, len(root.signatures)) for root in made.values()]
    assert sizes == [(1, 1), (2, 2)]
