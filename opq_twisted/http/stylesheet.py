"""The stylesheet that the pages of the box, of the server and of the fleet share."""

from pathlib import Path

#: Colours, type, header and buttons, as CSS. Each page appends its own rules.
SHARED_STYLE = Path(__file__).parent.joinpath("page", "style.css").read_text(encoding="utf-8")
