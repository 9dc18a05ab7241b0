"""A JSON object from an untrusted source."""

import json
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from opq_twisted.common import strict_json

#: Characters; no sentence is longer.
_MAX_TEXT = 2000

#: Characters; no text of several lines, such as release notes, is longer.
_MAX_LINES = 4000


@frozen
class Document:
    """Returns values of the type that is asked for; a value of another type counts as missing."""

    content: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> "Document":
        """Parse the object; raises ValueError if it is not JSON, or not an object."""
        return cls(strict_json.parse_object(data))

    def text(self, key: str) -> str:
        """Return a string as a single line, cut if it is too long; empty if it is missing."""
        value = self.content.get(key)
        return " ".join(value[:_MAX_TEXT].split()) if isinstance(value, str) else ""

    def lines(self, key: str) -> str:
        """Return a string with its line breaks, cut if it is too long; empty if it is missing."""
        value = self.content.get(key)
        if not isinstance(value, str):
            return ""
        return "\n".join(line.rstrip() for line in value[:_MAX_LINES].strip().splitlines())

    def embedded(self, key: str) -> list[str]:
        """Return JSON that is in a string, as lines of ASCII; the string itself if it is none."""
        value = self.content.get(key)
        try:
            content = strict_json.parse(value if isinstance(value, str) else "")
        except ValueError:
            return [self.text(key)]
        return json.dumps(content, indent=2).splitlines()

    def number(self, key: str) -> float | None:
        """Return a number that is not negative."""
        value = self.content.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value if 0 <= value <= strict_json.MAX_NUMBER else None

    def integer(self, key: str) -> int | None:
        """Return a whole number that is not negative."""
        value = self.number(key)
        return value if isinstance(value, int) else None

    def flag(self, key: str) -> bool:
        """Return whether the value is `true`."""
        return self.content.get(key) is True

    def part(self, key: str) -> "Document":
        """Return an inner object; an empty one if it is missing."""
        value = self.content.get(key)
        return Document(value if isinstance(value, dict) else {})

    def parts(self, key: str) -> "list[Document]":
        """Return the objects in an inner list."""
        value = self.content.get(key)
        items = value if isinstance(value, list) else []
        return [Document(item) for item in items if isinstance(item, dict)]
