"""Parses the documentation: commands, printed sentences, links."""

import re
from collections.abc import Iterator

from attrs import frozen

from tests.helpers.project import PROJECT

ROOT = PROJECT

#: The pages in the top folder and in `docs`.
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)


@frozen
class Block:
    """Commands to type, and their output."""

    section: str
    script: str
    #: One line each; an ellipsis stands for anything.
    printed: str = ""


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of shell commands; other languages, such as `console`, are skipped."""
    section = ""
    script: str | None = None
    # In a list the lines are indented.
    fence = r"^##+ ([^\n]+)$|^( *)```(\w*)\n(.*?)^\2```$"
    for title, indent, kind, content in re.findall(fence, text, re.MULTILINE | re.DOTALL):
        body = re.sub(f"^{indent}", "", content, flags=re.MULTILINE)
        if kind == "text":
            assert script is not None, f"{section}: nothing prints {body}"
            yield Block(section, script, body)
            script = None
            continue
        if script is not None:
            yield Block(section, script)
        script = body if kind == "sh" else None
        section = title or section
    if script is not None:
        yield Block(section, script)


def commands(script: str) -> Iterator[str]:
    """Split a block into commands, without comments and with broken lines joined."""
    joined = re.sub(r"(\\|&&)\n\s*", lambda found: "" if found[1] == "\\" else "&& ", script)
    for line in joined.splitlines():
        command = re.sub(r"(^|\s+)#\s.*", "", line).strip()
        if command:
            yield " ".join(command.split())


def rows(text: str, *titles: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables whose first column has one of these titles."""
    wanted = False
    for line in text.splitlines():
        if not line.startswith("|"):
            wanted = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[0] in titles:
            wanted = True
        elif wanted and not set(cells[0]) <= set("- "):
            yield cells


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's sections."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def links(text: str) -> Iterator[str]:
    """Yield the targets of a page's links and pictures within the project."""
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if "://" not in link:
            yield link
