"""Adapts the documentation to MkDocs, for `make docs`: mkdocs.yml names this file."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parent

#: The pages beside `docs`. MkDocs makes the README the first page.
_BESIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")

#: What is before the target of a link or of a picture.
_BEFORE = r"""(\]\(|\b(?:src|srcset|href)=")"""

#: A link to another file of the repository: from `docs`, and from beside it.
_UP, _DOWN = re.compile(rf"{_BEFORE}\.\./"), re.compile(rf"{_BEFORE}docs/")

#: An item of a numbered list. Python-Markdown wants the lines below it indented by four spaces, and
#: an empty line after an item that ends with commands.
_ITEM = re.compile(r"^\d+\. .*\n(?:(?: {3}.*)?\n)*", re.MULTILINE)

_DIAGRAM = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the sections as repository hosts do, so that a link to one works in both places."""
    config.mdx_configs["toc"]["slugify"] = _slug
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages beside `docs`, and every file of the repository to which a page links."""
    for name in _BESIDE:
        files.append(File.generated(config, name, abs_src_path=str(_ROOT / name)))
    for page in files.documentation_pages():
        for link in re.findall(rf"{_BEFORE}([^)\"#]+)", _adapt(page.content_string, page)):
            name = link[1]
            if files.get_file_from_path(name) is None and (_ROOT / name).is_file():
                files.append(File.generated(config, name, abs_src_path=str(_ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt the links, the lists and the diagram of a page."""
    markdown = _ITEM.sub(lambda item: item[0].replace("\n   ", "\n    ") + "\n", markdown)
    return _DIAGRAM.sub(_as_table, _adapt(markdown, page.file))


def _adapt(markdown: str, page: File) -> str:
    """Change the links: in the site, the files of `docs` are beside the others."""
    if "/" in page.src_uri:
        return markdown
    return (_DOWN if page.src_uri in _BESIDE else _UP).sub(r"\1", markdown)


def _as_table(diagram: re.Match[str]) -> str:
    """Write a diagram as a table: Material would load the program that draws it from elsewhere."""
    rows: dict[str, dict[str, list[str]]] = {}
    for start, arrow, end in re.findall(r"(\w+) (-->|-\.->) (\w+)", diagram[1]):
        rows.setdefault(start, {"-->": [], "-.->": []})[arrow].append(end)
    lines = (
        f"| {start} | {' | '.join(map(', '.join, ends.values()))} |" for start, ends in rows.items()
    )
    return "\n".join(("| from | arrows to | dotted arrows to |", "| --- | --- | --- |", *lines))


def _slug(title: str, _separator: str) -> str:
    return re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
