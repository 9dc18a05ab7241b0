"""The page of `/ls` shows the state of each archive, and contains nothing harmful."""

import base64
import hashlib
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import TargetFile
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.name import UpdateName
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.indexes import Indexes
from opq_twisted.server.catalog.snapshot import Catalog, Snapshot
from opq_twisted.server.catalog.updates_file import Archive
from opq_twisted.server.limits import Downloads
from opq_twisted.server.timestamp.alerts import Alert
from opq_twisted.server.timestamp.state import MetadataState, refresh_timestamp
from opq_twisted.server.timestamp.store import MetadataFolder
from opq_twisted.server.web.listing import ListingPage
from opq_twisted.server.web.long_poll import NewestVersion
from opq_twisted.server.web.resources import make_root
from opq_twisted.trust.offer import describe_before
from opq_twisted.trust.pace import ALL, FIELD, HELD, Pace
from tests.helpers.archives import make_archive, name_of
from tests.helpers.http_exchange import Response, ask
from tests.helpers.signed_metadata import Signed, channel
from tests.helpers.torture import TORTURE

BUILT = 1547860803
DAY = 86400

_MANY = 10_000 if TORTURE else 2_000


class Page(HTMLParser):
    """The visible content of a page: the text of each cell, the links, and all other text."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._open: list[tuple[str, bool]] = []
        self.feed(response.text)
        self.rows = [[cell.strip() for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Parse an element."""
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag in ("meta", "link"):
            return
        hidden = "hidden" in given or (self._open != [] and self._open[-1][1])
        self._open.append((tag, hidden))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        elif tag == "a" and not hidden:
            self.links[given.get("aria-label") or ""] = given["href"] or ""

    def handle_endtag(self, tag: str) -> None:
        """Parse the end of the last open element."""
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        """Parse text."""
        inside = [tag for tag, _ in self._open]
        if "style" in inside:
            self.style += data
        elif self._open and not self._open[-1][1]:
            self.text += data
            if "td" in inside or "th" in inside:
                self.rows[-1][-1] += data


class PageTestCase(SynchronousTestCase):
    """The page over a real directory, at a fixed time."""

    def setUp(self) -> None:
        self.updates = Path(self.mktemp()).absolute()
        self.updates.mkdir()
        self.catalog = Catalog(self.updates)
        self.digests = Digests(maybeDeferred)
        self.metadata_state = MetadataState(present=False)
        self.now = BUILT + 3 * DAY
        page = ListingPage(
            self.catalog, self.digests, lambda: self.metadata_state, lambda: float(self.now)
        )
        self.root = PlainResource()
        self.root.putChild(b"ls", _Only(page))

    def offer(self, *versions: int) -> list[Path]:
        paths = [make_archive(self.updates / name_of(each), each) for each in versions]
        self.catalog.rescan()
        return paths

    def offer_many(self, count: int) -> None:
        """Offer archives without files: only their number matters."""
        archives = (
            Archive(UpdateName(version), self.updates, 1, 0, (0, 0, 0, 0, 0))
            for version in range(1, count + 1)
        )
        self.catalog.snapshot = Snapshot(tuple(archives))

    def sign(self, targets: dict[str, TargetFile], fields: Mapping[str, Any] | None = None) -> None:
        signed = Signed(self.updates, self.now).init()
        signed.targets(1, targets)
        signed.snapshot(1, 1)
        signed.timestamp(1, 1, fields=fields)
        self.look()

    def look(self) -> None:
        self.metadata_state = refresh_timestamp(
            MetadataFolder(self.updates), self.catalog.snapshot, None, self.now
        )

    def response(self, query: str = "", method: str = "GET") -> Response:
        return ask(self.root, method, f"/ls{query}")

    def page(self, query: str = "") -> Page:
        return Page(self.response(query))

    def row(self) -> dict[str, str]:
        """The first row, by the headings of the columns."""
        headings, row, *_ = self.page().rows
        return dict(zip(headings, row, strict=True))


class _Only(PlainResource):
    def __init__(self, page: ListingPage) -> None:
        super().__init__()
        self._page = page

    def render_GET(self, request: BoundedRequest) -> Reply:
        return self._page.reply(request, {})


def under(name: str, target: TargetFile, custom: dict[str, Any] | None = None) -> TargetFile:
    """Sign the same file under another name, with `custom` or without."""
    unrecognized = {} if custom is None else {"custom": custom}
    return TargetFile(target.length, target.hashes, name, unrecognized)


class RowTests(PageTestCase):
    """The row of an archive."""

    def test_unsigned(self) -> None:
        """The time of the build, the age and the size, and that it is not signed."""
        [path] = self.offer(BUILT)
        self.assertEqual(
            self.row(),
            {
                "Release": f"19 January 2019, 01:20 UTC {BUILT} · 3 days ago",
                "Size": f"{path.stat().st_size} B",
                "Signed": "not signed",
                "Offered to": "",
                "SHA-256": "not known yet",
                "Archive": "Download",
            },
        )

    def test_digest(self) -> None:
        """The digest is shown as soon as it is known."""
        [path] = self.offer(BUILT)
        self.digests.want(self.catalog.snapshot.archives[0])
        self.assertEqual(self.row()["SHA-256"], hashlib.sha256(path.read_bytes()).hexdigest())

    def test_signed_digest(self) -> None:
        """A digest that is signed is known, but not that of another file."""
        older, path = self.offer(BUILT - DAY, BUILT)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.sign({"stable": channel(path), older.name: TargetFile(1, {"sha256": "f"}, older.name)})
        rows = [dict(zip(self.page().rows[0], row, strict=True)) for row in self.page().rows[1:]]
        self.assertEqual([row["SHA-256"] for row in rows], [digest, "not known yet"])

    def test_ages(self) -> None:
        """Ages have the largest fitting unit."""
        self.offer(BUILT)
        for seconds, age in (
            (-1, "in the future"),
            (59, "just now"),
            (60, "1 minute ago"),
            (7199, "1 hour ago"),
            (40 * DAY, "1 month ago"),
            (2 * 366 * DAY, "2 years ago"),
        ):
            self.now = BUILT + seconds
            self.assertEqual(self.row()["Release"].split(" · ")[1], age)

    def test_sizes(self) -> None:
        """Sizes have the largest fitting unit."""
        for size, shown in ((999, "999 B"), (1000, "1.0 kB"), (131_449_999, "131.4 MB")):
            archive = Archive(UpdateName(1), self.updates, size, 0, (0, 0, 0, 0, 0))
            self.catalog.snapshot = Snapshot((archive,))
            self.assertEqual(self.row()["Size"], shown)

    def test_no_date(self) -> None:
        """A version that is not a time is shown."""
        for version in (1, 253_402_300_799, 253_402_300_800, 999_999_999_999_999):
            self.offer(version)
            self.assertIn(f" {version} · ", self.row()["Release"])

    def test_signed(self) -> None:
        """An archive signed only under its own name is signed, but offered to no box."""
        [path] = self.offer(BUILT)
        self.sign({path.name: under(path.name, channel(path))})
        row = self.row()
        self.assertEqual((row["Signed"], row["Offered to"]), ("signed", ""))

    def test_channels(self) -> None:
        """The channels that offer it, and the share of boxes."""
        older, path = self.offer(BUILT - DAY, BUILT)
        target = channel(path)
        custom = {"version": BUILT, "file": path.name}
        rollout = {"percent": 25, "salt": "x"}
        self.sign(
            {
                "stable": under("stable", target, {**custom, "rollout": rollout}),
                "lab": under("lab", target, custom),
                "urgent": under("urgent", target, {**custom, "rollout": rollout, "critical": True}),
                "old": under("old", channel(older), {"version": BUILT - DAY, "file": older.name}),
            }
        )
        row = self.row()
        self.assertEqual(row["Signed"], "signed")
        self.assertEqual(
            sorted(row["Offered to"].split("\n")),
            ["lab: all boxes", "stable: 25 % of the boxes", "urgent: all boxes"],
        )

    def test_release_before(self) -> None:
        """The previous release, for boxes outside the rollout, is signed with the newest."""
        older, path = self.offer(BUILT - DAY, BUILT)
        before = under("stable", channel(older), {"version": BUILT - DAY, "file": older.name})
        rollout = {"percent": 25, "salt": "x"}
        custom = {"version": BUILT, "file": path.name, "rollout": rollout}
        custom["before"] = describe_before(before)
        self.sign({"stable": under("stable", channel(path), custom)})
        headings, *rows = self.page().rows
        columns = headings.index("Signed"), headings.index("Offered to")
        self.assertEqual(
            [tuple(row[column] for column in columns) for row in rows],
            [("signed", "stable: 25 % of the boxes"), ("signed", "stable: all other boxes")],
        )

    def test_no_box_follows(self) -> None:
        """An offer that no box can follow is not shown."""
        [path] = self.offer(BUILT)
        target = channel(path)
        custom = {"version": BUILT, "file": path.name}
        self.sign(
            {
                "<script>": under("<script>", target, custom),
                "stable": under("stable", target, {**custom, "critical": "yes"}),
            }
        )
        self.assertEqual(self.row()["Offered to"], "")

    def test_many_channels(self) -> None:
        """The length of a row is limited, however many channels there are."""
        [path] = self.offer(BUILT)
        target, custom = channel(path), {"version": BUILT, "file": path.name}
        self.sign({f"c{n}": under(f"c{n}", target, custom) for n in range(100)})
        self.assertEqual(self.row()["Offered to"].split("\n")[-1], "and 96 more")
        self.assertEqual(len(self.row()["Offered to"].split("\n")), 5)

    def test_another_length(self) -> None:
        """A file of another length than the signed one does not match."""
        [path] = self.offer(BUILT)
        self.sign({"stable": channel(path, {"file": path.name})})
        make_archive(path, BUILT, {"more": b"more"})
        self.catalog.rescan()
        self.assertEqual(self.row()["Signed"], "does not match copy the signed file here")

    def test_other_bytes(self) -> None:
        """A file with other bytes does not match as soon as its digest is known."""
        [path] = self.offer(BUILT)
        target = TargetFile(path.stat().st_size, {"sha256": "00" * 32}, path.name)
        self.sign({path.name: target})
        self.assertEqual(self.row()["Signed"], "signed")
        self.digests.want(self.catalog.snapshot.archives[0])
        self.assertEqual(self.row()["Signed"], "does not match copy the signed file here")

    def test_follows(self) -> None:
        """A new metadata state is shown."""
        [path] = self.offer(BUILT)
        self.look()
        self.assertEqual(self.row()["Signed"], "not signed")
        self.sign({"stable": channel(path)})
        self.assertEqual(self.row()["Signed"], "signed")


class PagesTests(PageTestCase):
    """The list of archives, and the links between its pages."""

    def test_empty(self) -> None:
        """An empty list says so."""
        page = self.page()
        self.assertIn("There is no release here yet", page.text)
        self.assertNotIn("on offer", page.text)
        self.assertEqual(page.links, {})

    def test_newest_first(self) -> None:
        """The newest archive is first, and the links work behind a proxy's path prefix."""
        self.offer(999999999, 1000000000)
        page = self.page()
        self.assertEqual(
            list(page.links.items()),
            [
                ("Download release 1000000000", f"update/{name_of(1000000000)}"),
                ("Download release 999999999", f"update/{name_of(999999999)}"),
            ],
        )
        self.assertIn("2 on offer, the newest first", page.text)

    def test_many(self) -> None:
        """A page shows a hundred of many archives, and its links lead to all."""
        self.offer_many(_MANY)
        seen, query, pages = [], "", 0
        while True:
            page = self.page(query)
            pages += 1
            rows = [row[0].split()[5] for row in page.rows[1:]]
            self.assertLessEqual(len(rows), 100)
            seen += rows
            more = page.links.get("", "ls")
            if more == "ls":
                break
            query = more.removeprefix("ls")
        self.assertEqual(seen, [str(version) for version in range(_MANY, 0, -1)])
        self.assertEqual(pages, _MANY // 100)

    def test_older_than_all(self) -> None:
        """Before the first archive, there is only the link to the newest."""
        self.offer_many(200)
        page = self.page("?before=1")
        self.assertEqual((len(page.rows), page.links), (1, {"": "ls"}))

    def test_other_queries(self) -> None:
        """An invalid version is ignored."""
        self.offer_many(2)
        for query in ("?before=x", "?before=", "?before=%ff", "?before=-1", "?after=1", "?before"):
            self.assertEqual(len(self.page(query).rows), 3)


class ProblemTests(PageTestCase):
    """The sentences about what is wrong."""

    def problems(self) -> list[str]:
        """The sentences; none if the section is hidden."""
        text = self.page().text
        if "What is wrong" not in text:
            return []
        listed = text.split("What is wrong")[1].split("What the boxes get")[0]
        return [line for line in listed.split("\n") if line]

    def look(self, key: CryptoSigner | None = None) -> None:
        self.metadata_state = refresh_timestamp(
            MetadataFolder(self.updates), self.catalog.snapshot, key, self.now
        )

    def test_none(self) -> None:
        """Without a problem nothing is said."""
        [path] = self.offer(BUILT)
        self.assertEqual(self.problems(), [])
        self.sign({"stable": channel(path)})
        self.assertEqual(self.problems(), [])

    def test_directory_gone(self) -> None:
        """A sentence says that the list is an old one."""
        self.offer(BUILT)
        self.updates.rename(self.mktemp())
        self.catalog.rescan()
        [problem] = self.problems()
        self.assertIn(f"Cannot read the updates directory {self.updates}", problem)
        self.assertEqual(len(self.page().rows), 2)

    def test_archive_missing(self) -> None:
        """A channel without its archive is named with its release and the remedy."""
        _, path = self.offer(BUILT - DAY, BUILT)
        signed = Signed(self.updates, self.now).init()
        signed.announce(1, path)
        path.unlink()
        self.catalog.rescan()
        self.look(signed.keys["timestamp"])
        [problem] = self.problems()
        self.assertIn(
            "channel stable leads to the release of 19 January 2019, 01:20 UTC, which is not here",
            problem,
        )
        self.assertIn(f"copy {path.name} to this server", problem)
        self.assertIn(
            "No box can download the release of 19 January 2019, 01:20 UTC: its archive is not "
            "here.",
            self.page().text,
        )

    def test_not_whole(self) -> None:
        """An update that is not offered is named with the reason; other files are not named."""
        self.offer(BUILT)
        (self.updates / name_of(BUILT + 1)).write_bytes(b"BZh9")
        (self.updates / "secret").touch()
        self.catalog.rescan()
        [problem] = self.problems()
        self.assertIn(f"{name_of(BUILT + 1)} is not offered: it is not a whole bzip2", problem)

    def test_trouble_with_the_metadata(self) -> None:
        """A file that is missing is named."""
        [path] = self.offer(BUILT)
        self.sign({"stable": channel(path)})
        (self.updates / "tuf" / "timestamp.json").unlink()
        self.look()
        self.assertEqual(
            self.problems(), ["No box accepts the timestamp: timestamp.json is not there."]
        )
        self.assertIn("No release is announced to the boxes.", self.page().text)

    def test_expires(self) -> None:
        """Metadata that expires is named."""
        [path] = self.offer(BUILT)
        self.sign({"stable": channel(path)})
        self.now += 6 * DAY
        [problem] = self.problems()
        self.assertIn("timestamp.json expires in 1.0 days", problem)

    def test_many(self) -> None:
        """The number and the length of the sentences are limited."""
        self.offer(BUILT)
        self.metadata_state = MetadataState(alerts=(Alert("x" * 10_000),) * 1000)
        *problems, last = self.problems()
        self.assertEqual(problems, ["x" * 500] * 8)
        self.assertIn("There are more problems", last)


class ChannelTests(PageTestCase):
    """The words about what the boxes get."""

    def words(self) -> str:
        """The text about the channels, in one line."""
        text = self.page().text.split("What the boxes get")[1].split("All releases")[0]
        return " ".join(text.split())

    def stable(self, pace: Pace | None = None, **custom: Any) -> str:
        """Sign a release in `stable`, and return the words about it."""
        if not self.catalog.snapshot.archives:
            self.older, self.path = self.offer(BUILT - DAY, BUILT)
        self.metadata_state = MetadataState(present=False)
        if (self.updates / "tuf").exists():
            shutil.rmtree(self.updates / "tuf")
        fields = {} if pace is None else {FIELD: {"stable": pace.to_json()}}
        self.sign({"stable": channel(self.path, custom)}, fields)
        return self.words()

    def test_terms(self) -> None:
        """Each term of an offer is said in words."""
        newest = "the release of 19 January 2019, 01:20 UTC"
        self.assertEqual(self.stable(), f"Channel stable All boxes get {newest}.")
        before = describe_before(channel(self.older))
        for custom, expected in (
            (
                {"rollout": {"percent": 25, "salt": "x"}, "before": before},
                f"25 % of the boxes get {newest}. The others get the release of "
                "18 January 2019, 01:20 UTC until their turn comes.",
            ),
            (
                {"rollout": {"percent": 5, "salt": "x"}},
                f"5 % of the boxes get {newest}. The others wait for their turn.",
            ),
            (
                {"rollout": {"percent": 0, "salt": "x"}, "before": before},
                "The release of 19 January 2019, 01:20 UTC is held back. All boxes get the release "
                "of 18 January 2019, 01:20 UTC instead.",
            ),
            (
                {"rollout": {"percent": 0, "salt": "x"}},
                "The release of 19 January 2019, 01:20 UTC is held back. No box installs it by "
                "itself.",
            ),
            (
                {"critical": True, "rollout": {"percent": 5, "salt": "x"}},
                f"All boxes get {newest}. It is critical: no box has to wait for its turn.",
            ),
            (
                {"allow_downgrade": True},
                f"All boxes get {newest}. Boxes with a newer release may go back to it.",
            ),
        ):
            self.assertEqual(self.stable(**custom), f"Channel stable {expected}")

    def test_pace(self) -> None:
        """A pace that takes boxes away is said in words."""
        stopped = "It is stopped for now: no box installs it by itself."
        self.assertIn(stopped, self.stable(Pace(BUILT, ALL, HELD)))
        self.assertIn(stopped, self.stable(Pace(BUILT, ALL, HELD), critical=True))
        self.assertIn("For now it goes to 0.5 % of the boxes only.", self.stable(Pace(BUILT, 50)))
        rollout = {"percent": 5, "salt": "x"}
        as_signed = self.stable(rollout=rollout)
        for pace in (Pace(BUILT, 500), Pace(BUILT - DAY, 0, HELD)):
            self.assertEqual(self.stable(pace, rollout=rollout), as_signed)

    def test_unusable(self) -> None:
        """A channel that no box can follow is named with the reason."""
        words = self.stable(critical="yes")
        self.assertIn("a channel 'stable' that no box can follow: its critical", words)

    def test_notes(self) -> None:
        """Short notes are shown, and long ones folded; both are text with lines."""
        self.stable(notes="One.\n<b>Two</b> & three.")
        page = self.page()
        self.assertIn("One.\n<b>Two</b> & three.", page.text)
        self.assertNotIn("details", [tag for tag, _ in page.elements])
        self.stable(notes="line\n" * 7)
        self.assertIn("details", [tag for tag, _ in self.page().elements])
        self.stable(notes="%" * 1_000_000)
        page = self.page()
        self.assertIn("details", [tag for tag, _ in page.elements])
        self.assertEqual(page.text.count("%"), 4000)

    def test_same_notes(self) -> None:
        """Notes of a release in two channels are shown once."""
        [path] = self.offer(BUILT)
        target = channel(path, {"notes": "Told once."})
        self.sign({"beta": target, "stable": target})
        words = self.words()
        self.assertEqual(words.count("Told once."), 1)
        self.assertLess(words.index("Channel stable"), words.index("Told once."))
        self.assertLess(words.index("Told once."), words.index("Channel beta"))

    def test_many(self) -> None:
        """The number of channels is limited."""
        [path] = self.offer(BUILT)
        self.sign({f"c{number:03}": channel(path) for number in range(500)})
        words = self.words()
        self.assertEqual(words.count("Channel"), 8)
        self.assertTrue(words.endswith("There are 492 more channels."))

    def test_no_channel(self) -> None:
        """Signed metadata without any channel says what to do."""
        [path] = self.offer(BUILT)
        self.sign({path.name: under(path.name, channel(path))})
        self.assertIn("No channel offers a release.", self.words())

    def test_unsigned(self) -> None:
        """Without signatures the boxes get the newest archive."""
        self.offer(BUILT - DAY, BUILT)
        self.assertEqual(
            self.words(),
            "Boxes get the newest release, of 19 January 2019, 01:20 UTC. It is not signed: boxes "
            "that check signatures do not install it.",
        )

    def test_time(self) -> None:
        """The time is machine-readable, if it is one."""
        self.offer(BUILT, 999_999_999_999_999)
        times = [given for tag, given in self.page().elements if tag == "time"]
        self.assertEqual(times, [{"datetime": "2019-01-19T01:20Z"}])


class MarkupTests(PageTestCase):
    """The page for browsers and screen readers."""

    def test_nothing_from_outside(self) -> None:
        """It has no script and loads nothing; the policy allows its own style and nothing else."""
        self.offer(BUILT)
        response = self.response()
        page = Page(response)
        digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
        policy = response.headers["Content-Security-Policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertIn(f"style-src 'sha256-{digest}'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertNotIn("url(", page.style)
        for tag, attributes in page.elements:
            self.assertNotIn(tag, ("script", "link", "img", "iframe", "object"))
            self.assertEqual([name for name in attributes if name.startswith(("on", "style"))], [])
        self.assertEqual(response.headers["Referrer-Policy"], "no-referrer")

    def test_table(self) -> None:
        """The table has a caption, scopes, and roles that a stylesheet cannot remove."""
        self.offer(BUILT)
        elements = self.page().elements
        self.assertIn("caption", [tag for tag, _ in elements])
        roles = {"table": "table", "tr": "row", "td": "cell", "thead": "rowgroup"}
        for tag, attributes in elements:
            if tag in roles:
                self.assertEqual(attributes["role"], roles[tag])
            if tag == "th":
                column = attributes["scope"] == "col"
                self.assertEqual(attributes["role"], "columnheader" if column else "rowheader")
        self.assertEqual(elements[0], ("html", {"lang": "en"}))

    def test_all_is_text(self) -> None:
        """No name of a directory becomes markup."""
        self.catalog.problem = "<script>alert(1)</script>\"'&"
        response = self.response()
        self.assertNotIn("<script", response.text)
        self.assertIn("<script>alert(1)</script>\"'&", Page(response).text)

    def test_head(self) -> None:
        """HEAD has the headers of GET and no body."""
        self.offer(BUILT)
        got, head = self.response(), self.response(method="HEAD")
        for response in (got, head):
            del response.headers["Date"]
        self.assertEqual((head.headers.items(), head.body), (got.headers.items(), b""))


class ServerTests(PageTestCase):
    """The page in the server's own tree."""

    def test_signed(self) -> None:
        """It shows the state of the signatures."""
        [path] = self.offer(BUILT)
        self.sign({"stable": channel(path)})
        version = NewestVersion(Clock(), self.catalog)
        self.root = make_root(
            self.catalog,
            self.digests,
            Indexes(maybeDeferred),
            Downloads(1),
            version,
            metadata_state=lambda: self.metadata_state,
        )
        page = Page(ask(self.root, "GET", "/ls", "Accept: text/html"))
        self.assertEqual(page.rows[1][2:4], ["signed", "stable: all boxes"])
