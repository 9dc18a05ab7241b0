"""Draws the stages of an update in docs/architecture.md, from the table in the sources."""

from collections.abc import Iterator

from opq_twisted.box.state.stages import RESUMPTIONS, TRANSITIONS, Stage
from tests.helpers.project import PROJECT

PAGE = PROJECT / "docs" / "architecture.md"

_BEGIN = "<!-- `make diagram` writes the following lines. -->\n"
_END = "<!-- End of the diagram. -->\n"


def _lines() -> Iterator[str]:
    yield "```mermaid"
    yield "flowchart LR"
    for stage in Stage:
        yield f"    {stage}([{stage}])" if stage.at_rest else f"    {stage}[{stage}]"
    for before in Stage:
        # The text above it says that every stage may fail, and may be repeated.
        for after in (each for each in Stage if each not in (Stage.FAILED, before)):
            if after in TRANSITIONS[before]:
                yield f"    {before} --> {after}"
            elif after in RESUMPTIONS[before]:
                yield f"    {before} -.-> {after}"
    yield "```"


def drawn_in(page: str) -> str:
    """Give a page with the diagram as the sources have it now."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return "".join((before, _BEGIN, *(f"{line}\n" for line in _lines()), _END, after))


if __name__ == "__main__":
    PAGE.write_text(drawn_in(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
