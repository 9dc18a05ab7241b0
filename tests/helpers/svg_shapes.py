"""Reads the shapes of a drawing in SVG."""

import re
from xml.etree import ElementTree as ET

from opq_twisted.fleet.web.views.svg import HEIGHT, WIDTH


def shapes(svg: str, height: int = HEIGHT) -> list[ET.Element]:
    """Check that all points are in the view box; returns the shapes that have a colour."""
    root = ET.fromstring(svg)
    found = [each for each in root if each.get("class") and each.get("class") != "grid"]
    for each in found:
        if each.tag == "path":
            points = re.findall(r"([\d.e-]+),([\d.e-]+)", each.get("d", ""))
        else:
            x, y, wide, high = (float(each.get(name, "")) for name in ("x", "y", "width", "height"))
            assert min(wide, high) >= 0
            points = [(x, y), (x + wide, y + high)]
        assert points
        for x, y in points:
            assert -0.02 <= float(x) <= WIDTH + 0.02, svg
            assert -0.02 <= float(y) <= height + 0.02, svg
    return found
