"""The pages as HTML."""

from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

from jinja2 import UndefinedError
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.web.views import render
from opq_twisted.fleet.web.views.banner import Banner
from opq_twisted.fleet.web.views.parts import render_parts
from opq_twisted.fleet.web.views.viewer import Viewer
from tests.helpers import fleet_contents as contents

OPERATOR = Viewer(name="anna", is_operator=True)
VIEWER = Viewer(name="ben", is_operator=False)

#: A text that would become an element, or an attribute, if it were not escaped.
HOSTILE = '</title><x-evil>"\' onevil="1"&amp; {{ 7777 * 7 }}'

#: Names in a content that come from boxes.
REASONS = {"unhealthy-service", "silent", "turn", "window", "click", "stale"}

_VOID = frozenset(("meta", "link", "img", "input", "br"))


class Document(HTMLParser):
    """Checks that the elements of a page are closed in order, and remembers what is there."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        if self._open:
            raise AssertionError(f"not closed: {self._open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember a part of a drawing."""
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Check that this was the last element that was opened."""
        if self._open.pop() != tag:
            raise AssertionError(f"</{tag}> closes another element")

    def handle_data(self, data: str) -> None:
        """Remember the text."""
        self.text += data

    def values(self, name: str, tag: str | None = None) -> list[str]:
        """Return the values of an attribute."""
        return [each[2] for each in self.attributes if each[1] == name and tag in (None, each[0])]


def pages(viewer: Viewer) -> Iterator[tuple[str, bytes]]:
    """Render each page in each state."""
    for name, state in contents.OVERVIEWS.items():
        yield name, render.overview(state, viewer, "It is held.")
    yield "boxes", render.boxes(contents.boxes(), viewer)
    yield "no boxes", render.boxes(contents.boxes(boxes=[], more=False, after=9), viewer)
    yield "box", render.box(contents.box(), viewer)
    yield "new box", render.box(contents.new_box(), viewer)
    yield "release", render.release(contents.release(), viewer)
    yield "old release", render.release(contents.old_release(), viewer)
    yield "audit", render.audit(contents.audit(), viewer)
    yield "no audit", render.audit(contents.audit(changes=[], release=7, before=3), viewer)
    yield "form", render.form(contents.form(), viewer)
    yield "problem", render.problem(503, "The database is away.", viewer, contents.NOW)


def hostile(content: Any) -> Any:
    """Replace each text of a content."""
    if isinstance(content, Mapping):
        if {*content} <= REASONS:
            return {f"{HOSTILE}{name}": hostile(each) for name, each in content.items()}
        # Days are made by this program, and channels are checked when they are read.
        return {
            name: each if name in ("days", "channel") else hostile(each)
            for name, each in content.items()
        }
    if isinstance(content, list | tuple):
        return [hostile(each) for each in content]
    return HOSTILE if isinstance(content, str) else content


class PageTests(SynchronousTestCase):
    """Renders pages."""

    def test_structure(self) -> None:
        """Each page is well formed, and has one heading of the first level, and unique ids."""
        for viewer in (OPERATOR, VIEWER):
            for name, page in pages(viewer):
                document = Document(page)
                self.assertEqual(document.tags.count("h1"), 1, name)
                ids = document.values("id")
                self.assertEqual(sorted(ids), sorted({*ids}), name)
                self.assertEqual({*document.values("for")} - {*ids}, set(), name)
                self.assertEqual({*document.values("aria-labelledby")} - {*ids}, set(), name)

    def test_nothing_inline(self) -> None:
        """The browser would refuse styles and scripts in the HTML."""
        for name, page in pages(OPERATOR):
            document = Document(page)
            self.assertNotIn("style", document.tags, name)
            self.assertEqual(document.values("style"), [], name)
            self.assertEqual(document.tags.count("script"), len(document.values("src", "script")))
            self.assertEqual([each for each in document.attributes if each[1][:2] == "on"], [])

    def test_roles(self) -> None:
        """A viewer gets no form that changes anything."""
        for name, page in pages(VIEWER):
            if name != "form":
                self.assertNotIn("post", Document(page).values("method"), name)
        for page in (
            render.overview(contents.overview(), OPERATOR),
            render.box(contents.box(), OPERATOR),
        ):
            self.assertIn("post", Document(page).values("method"))

    def test_hostile(self) -> None:
        """No text gets out of its place."""
        viewer = Viewer(name=HOSTILE, is_operator=True)
        rendered = [
            *(
                render.overview(hostile(each), viewer, HOSTILE)
                for each in contents.OVERVIEWS.values()
            ),
            render.boxes(hostile(contents.boxes()), viewer),
            render.box(hostile(contents.box()), viewer),
            render.box(hostile(contents.new_box()), viewer),
            render.release(hostile(contents.release()), viewer),
            render.audit(hostile(contents.audit()), viewer),
            render.form(hostile(contents.form()), viewer),
            render.problem(404, HOSTILE, viewer, contents.NOW),
        ]
        for page in rendered:
            document = Document(page)
            self.assertNotIn("x-evil", document.tags)
            self.assertNotIn("onevil", [each[1] for each in document.attributes])
            self.assertIn("<x-evil>", document.text)
            self.assertIn("{{ 7777 * 7 }}", document.text)

    def test_surrogate(self) -> None:
        """A text that UTF-8 cannot have does not stop the page."""
        self.assertIn(b"a?b", render.problem(404, "a\udcffb", OPERATOR, contents.NOW))

    def test_missing(self) -> None:
        """A field that is missing is an error, and not an empty place."""
        content = contents.release()
        del content["bad"]
        self.assertRaises(UndefinedError, render.release, content, OPERATOR)

    def test_stranger(self) -> None:
        """Who is not known yet gets a sentence, and no links."""
        document = Document(render.problem(401, "Tell your name.", None, contents.NOW))
        self.assertIn("Tell your name.", document.text)
        self.assertEqual(document.values("href", "a"), ["#main"])

    def test_live(self) -> None:
        """The parts of a stream are those of the page."""
        content = contents.overview()
        parts, page = render_parts(content, OPERATOR), render.overview(content, OPERATOR).decode()
        self.assertEqual({*parts}, {*Document(page.encode()).values("data-live")})
        for part in parts.values():
            self.assertIn(part, page)

    def test_small_fleet(self) -> None:
        """A rollout that began with 20 % shows no step before that, but can be resumed at it."""
        held = {**contents.held(), "bp": 2000, "first_bp": 2000}
        banner = Banner.of(held, "auto")
        self.assertEqual(banner.steps, [2000, 5000, 10_000])
        self.assertEqual(banner.resumable, [2000, 500])

    def test_held(self) -> None:
        """The page says what it means that a release is held, and what to do."""
        page = Document(render.overview(contents.OVERVIEWS["held"], OPERATOR)).text
        self.assertIn("No box installs it by itself. Look at the bad boxes; then resume it", page)

    def test_out_and_bad(self) -> None:
        """A release that is out to all boxes, and is bad, is not shown as one that is well."""
        for action, mode, said in (
            ("hold", "observe", "would hold it now"),
            ("ask", "auto", "Somebody has to decide: hold it, or leave it."),
            ("nothing", "auto", "Nothing is to be done."),
        ):
            judged = contents.assessment(action=action, next_bp=None, remaining=None)
            for state in ("done", "baking"):
                out = contents.channel(state=state, bp=10_000, assessment=judged)
                shown = contents.overview(rollouts=mode, channels=[out])
                self.assertIn(said, Document(render.overview(shown, OPERATOR)).text)

    def test_links(self) -> None:
        """The next page of a list keeps the filter."""
        links = Document(render.boxes(contents.boxes(), VIEWER)).values("href", "a")
        self.assertIn("/fleet/boxes?channel=stable&after=25", links)
        audit = contents.audit(release=contents.NEW)
        links = Document(render.audit(audit, VIEWER)).values("href", "a")
        self.assertIn(f"/fleet/audit?before=4&release={contents.NEW}", links)
