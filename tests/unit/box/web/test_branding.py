"""The title, the logo and the colour of the page."""

import json
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.config.settings import PageConfig
from opq_twisted.box.web import branding
from opq_twisted.box.web.branding import DARK, LIGHT, Branding, make_style, read_branding
from opq_twisted.http.stylesheet import SHARED_STYLE

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


class BrandingTests(SynchronousTestCase):
    """`read_branding`."""

    def setUp(self) -> None:
        self.release = Path(self.mktemp()).absolute()
        self.component = self.release / "mysensor"
        self.component.mkdir(parents=True)
        self.logged: list[str] = []
        self.patch(branding, "_log", self)

    def warn(self, text: str, **values: object) -> None:
        self.logged.append(text.format(**values))

    def read(self, **config: Any) -> Branding:
        return read_branding(PageConfig(**config), self.release)

    def write(self, content: object, component: str = "mysensor") -> None:
        folder = self.release / component
        folder.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "page.json").write_text(text)

    def test_default(self) -> None:
        """Without anything, and even without a release, it is OPQ."""
        for release in (self.release, self.release / "nowhere"):
            found = read_branding(PageConfig(), release)
            self.assertEqual((found.title, found.logo_name), ("OPQ Box", "icon.svg"))
            self.assertEqual(found.style, "")
        self.assertEqual(self.logged, [])

    def test_configured(self) -> None:
        """The configuration has title, logo and colour."""
        logo = self.release / "mine.PNG"
        logo.write_bytes(PNG)
        found = self.read(title="Mine", logo=logo, colour="#ffee00")
        self.assertEqual((found.title, found.logo, found.logo_name), ("Mine", PNG, "logo.png"))
        self.assertEqual(found.logo_type, b"image/png")
        self.assertIn("--accent:#ffee00;--on-accent:#000000", found.style)

    def test_component(self) -> None:
        """A component has them, too; the configuration wins."""
        (self.component / "art").mkdir()
        (self.component / "art" / "logo.svg").write_bytes(SVG)
        self.write({"title": "Theirs", "logo": "art/logo.svg", "colour": "#123456"})
        self.write({"title": "Of a later name"}, "other")
        found = self.read()
        self.assertEqual((found.title, found.logo, found.logo_name), ("Theirs", SVG, "logo.svg"))
        self.assertEqual(self.read(title="Mine").title, "Mine")
        self.assertIn("#123456", self.read(title="Mine").style)

    def test_broken(self) -> None:
        """A broken page.json is logged and ignored."""
        for content in (
            *("", "[]", "{", "7", "[" * 4000, '{"title": "' + "x" * 5000 + '"}'),
            *({"title": 7}, {"title": "x" * 41}, {"colour": "red"}, {"color": "#000000"}),
            *({"colour": "#000000;}*{display:none"}, {"title": "a\nb"}, {"logo": "a\0b"}),
        ):
            with self.subTest(content=content):
                self.logged.clear()
                self.write(content)
                self.assertEqual(self.read(), read_branding(PageConfig(), Path("/nonexistent")))
                [said] = self.logged
                self.assertIn("page.json is ignored: ", said)

    def test_no_way_out(self) -> None:
        """A component's logo is a file of the component."""
        outside = self.release / "outside.svg"
        outside.write_bytes(SVG)
        os.symlink(outside, self.component / "link.svg")
        os.symlink("loop.svg", self.component / "loop.svg")
        for logo in ("../outside.svg", str(outside), "link.svg", "loop.svg", "/etc/passwd"):
            with self.subTest(logo=logo):
                self.write({"logo": logo})
                self.assertEqual(self.read().logo_name, "icon.svg")
                self.assertEqual(len(self.logged), 1)
                self.logged.clear()

    def test_wrong_logo(self) -> None:
        """A logo that is missing, large, no file, or of another kind is not used."""
        os.mkfifo(self.release / "pipe.svg")
        for name, content in (
            *(("a.svg", b"<svg/>" + b" " * 65536), ("a.png", SVG), ("a.svg", PNG)),
            *(("a.gif", b"GIF89a"), ("a.svg", b""), ("pipe.svg", None), ("none.svg", None)),
        ):
            with self.subTest(name=name):
                logo = self.release / name
                if content is not None:
                    logo.write_bytes(content)
                self.assertEqual(self.read(logo=logo).logo_name, "icon.svg")
                self.assertEqual(len(self.logged), 1)
                self.logged.clear()


class ColourTests(SynchronousTestCase):
    """`make_style`."""

    def test_contrast(self) -> None:
        """With any colour, text can be read in both themes."""
        steps = ("00", "40", "80", "c0", "ff")
        for colour in (
            f"#{red}{green}{blue}" for red in steps for green in steps for blue in steps
        ):
            themes = make_style(colour).split("\n@media")
            for style, (_, grounds) in zip(themes, (LIGHT, DARK), strict=True):
                rules = style[style.rindex("{") + 1 :].split("}")[0].split(";")
                found = dict(rule.split(":") for rule in rules)
                for text, ground in (
                    (found["--on-accent"], found["--accent"]),
                    *((found["--link"], each) for each in grounds),
                ):
                    ratio = branding.contrast(branding._parse(text), branding._parse(ground))
                    self.assertGreaterEqual(ratio, 4.5, (colour, text, ground))

    def test_grounds(self) -> None:
        """The grounds are those of the stylesheet."""
        light, dark = SHARED_STYLE.split("@media (prefers-color-scheme: dark)")
        for style, (_, (paper, card)) in ((light, LIGHT), (dark, DARK)):
            self.assertIn(f"--paper: {paper};", style)
            self.assertIn(f"--card: {card if card != '#ffffff' else '#fff'};", style)
