"""Fills the templates of the page."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from opq_twisted.common import wording
from opq_twisted.fleet.web.views import formats, words
from opq_twisted.fleet.web.views.assets import FOLDER, NAMES

#: The pages in the header: the name, the path, and the label.
_PAGES = (
    ("overview", "/fleet", "Overview"),
    ("boxes", "/fleet/boxes", "Boxes"),
    ("audit", "/fleet/audit", "Decisions"),
)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # The files do not change while the program runs.
        auto_reload=False,
    )
    for name in (
        *("number", "boxes", "percent", "share", "span", "moment", "age", "built"),
        "fingerprint",
    ):
        made.filters[name] = getattr(formats, name)
    made.filters |= {"ordinal": wording.ordinal, "bytes_of": wording.part_of}
    made.globals |= {
        "files": NAMES,
        "pages": _PAGES,
        "actions": words.ACTIONS,
        "waiting": words.WAITING,
        "outcomes": words.OUTCOMES,
        "key_states": words.KEY_STATES,
    }
    return made


_ENVIRONMENT = _environment()

#: All templates, compiled before anybody waits for a page.
_TEMPLATES = {
    name: _ENVIRONMENT.get_template(name) for name in _ENVIRONMENT.list_templates(["html"])
}


def fill(name: str, values: Mapping[str, Any]) -> str:
    """
    Fill a template; each value is escaped.

    :raises jinja2.UndefinedError: if it needs a value that is not there.
    """
    return _TEMPLATES[name].render(values)
