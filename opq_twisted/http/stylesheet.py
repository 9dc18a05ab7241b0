"""The stylesheet that the box's page and the server's list of archives share."""

from pathlib import Path

#: Colours, type, header and buttons, as CSS. Each page appends its own rules.
SHARED_STYLE = Path(__file__).parent.joinpath("page", "style.css").read_text(encoding="utf-8")
