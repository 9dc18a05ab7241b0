"""Makes drawings in SVG. They have only shapes; the text is beside them in the HTML."""

from xml.etree import ElementTree as ET

#: The size of the view box; the page stretches it.
WIDTH, HEIGHT = 600, 160

#: The least height of a shape, and half of its least width, so that it can be seen.
LEAST = 3.0


def make_root(title: str, description: str | None, height: int = HEIGHT) -> ET.Element:
    """
    Make an empty drawing.

    :param title: its name, for those who cannot see it.
    :param description: what it shows, in a sentence.
    """
    root = ET.Element(
        "svg", viewBox=f"0 0 {WIDTH} {height}", preserveAspectRatio="none", role="img"
    )
    ET.SubElement(root, "title").text = _clean(title)
    if description is not None:
        ET.SubElement(root, "desc").text = _clean(description)
    return root


def add(root: ET.Element, tag: str, **attributes: float | str) -> None:
    """Add a shape."""
    texts = {
        name: value if isinstance(value, str) else f"{value:.2f}".removesuffix(".00")
        for name, value in attributes.items()
    }
    ET.SubElement(root, tag, texts)


def to_text(root: ET.Element) -> str:
    """Return a drawing as text."""
    return ET.tostring(root, encoding="unicode")


def _clean(text: str) -> str:
    """Remove characters that XML cannot have."""
    return "".join(each for each in text if each.isprintable())
