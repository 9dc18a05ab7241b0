"""Writes a page for each OpenAPI description, for `make docs`: mkdocs.yml names this file."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_FOLDER = Path(__file__).parent / "docs" / "openapi"

#: A part of a description, as JSON has it.
_Part = dict[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path in _FOLDER.glob("*.yaml"):
        content = "\n".join(_lines(path.name, yaml.safe_load(path.read_text(encoding="utf-8"))))
        files.append(File.generated(config, f"openapi/{path.stem}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to a description lead to its page."""
    return re.sub(r"(\]\((?:docs/)?openapi/[\w-]+)\.yaml\)", r"\1.md)", markdown)


def _lines(name: str, description: _Part) -> Iterator[str]:
    yield f"# {description['info']['title']}\n"
    yield f"{description['info']['description']}\nPrograms read [its OpenAPI form]({name}).\n"
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            yield f"## {method.upper()} {path}\n"
            yield f"{operation['summary']} {operation.get('description', '')}\n"
            if operation.get("security"):
                yield "Needs the password, if there is one.\n"
            yield from _request(description, operation)
            yield from _responses(description, operation)
    yield "## Schemas\n"
    for title, schema in description["components"]["schemas"].items():
        yield f"### {title}\n"
        yield f"{schema.get('description', '')}\n"
        if "properties" in schema:
            rows = ((f"`{name}`", *_value(part)) for name, part in schema["properties"].items())
            yield from _table(("field", "value", "meaning"), rows)
        else:
            yield f"{_value(schema)[0]}\n"


def _request(description: _Part, operation: _Part) -> Iterator[str]:
    parameters = [_find(description, each) for each in operation.get("parameters", ())]
    rows = [
        (
            *(f"`{each['name']}`", each["in"]),
            *(f"`{each['example']}`" if "example" in each else "", each.get("description", "")),
        )
        for each in parameters
    ]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        # A body that has a schema of its own is one row, with a link to it.
        parts = content["schema"].get("properties", {"the body": content["schema"]})
        for name, part in parts.items():
            rows.append((f"`{name}`", media_type, _value(part)[0], _value(part)[1]))
    if rows:
        yield from _table(("parameter", "in", "example", "meaning"), rows)


def _responses(description: _Part, operation: _Part) -> Iterator[str]:
    rows = []
    for status, each in operation["responses"].items():
        response = _find(description, each)
        headers = [
            _header(name, _find(description, header))
            for name, header in response.get("headers", {}).items()
        ]
        bodies = [
            f"`{media_type}` {_value(content['schema'])[0] if 'schema' in content else ''}"
            for media_type, content in response.get("content", {}).items()
        ]
        rows.append((status, response["description"], "<br>".join(headers), "<br>".join(bodies)))
    yield from _table(("status", "meaning", "headers", "body"), rows)


def _header(name: str, header: _Part) -> str:
    value = header.get("example", header["schema"].get("const"))
    shown = name if value is None else f"{name}: {value}"
    return f"`{shown}` {header.get('description', '')}"


def _find(description: _Part, part: _Part) -> _Part:
    """Follow a reference."""
    found: _Part = description
    for name in part["$ref"].removeprefix("#/").split("/") if "$ref" in part else ():
        found = found[name]
    return found if "$ref" in part else part


def _value(schema: _Part) -> tuple[str, str]:
    """Give the kind of a value, and its meaning."""
    kinds: list[str] = []
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        kinds = [f"[{name}](#{name.lower()})"]
    elif "items" in schema:
        kinds = [f"a list of {_value(schema['items'])[0]}"]
    elif "const" in schema:
        kinds = [f"`{schema['const']}`" if schema["const"] else "empty"]
    elif "enum" in schema:
        kinds = [f"`{value}`" for value in schema["enum"]]
    elif "type" in schema:
        kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    kinds += [_value(each)[0] for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))]
    return " or ".join(dict.fromkeys(kinds)), schema.get("description", "")


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{' --- |' * len(tuple(titles))}"
    for row in rows:
        yield f"| {' | '.join(' '.join(cell.split()).replace('|', '&#124;') for cell in row)} |"
    yield ""
