"""A JSON object from outside, read without trust in what it holds."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from attrs import frozen

#: Characters; a sentence that is longer is none.
_LONGEST_TEXT = 2000

#: More than any time in seconds, or any size in bytes, that makes sense.
_LARGEST_NUMBER = 1e15


@frozen
class Document:
    """Gives what is asked for where it is of the kind that is asked for, and else nothing."""

    content: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> "Document":
        """
        Read the object.

        :raises ValueError: when it is not JSON, or no object.
        """
        try:
            content = json.loads(data, parse_constant=_refuse)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        return cls(content)

    def text(self, key: str) -> str:
        """Give a text as a single line, cut where it is too long."""
        value = self.content.get(key)
        return " ".join(value[:_LONGEST_TEXT].split()) if isinstance(value, str) else ""

    def number(self, key: str) -> float | None:
        """Give a number that is not negative."""
        value = self.content.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value if 0 <= value <= _LARGEST_NUMBER else None

    def integer(self, key: str) -> int | None:
        """Give a whole number that is not negative."""
        value = self.number(key)
        return value if isinstance(value, int) else None

    def flag(self, key: str) -> bool:
        """Tell whether something is so."""
        return self.content.get(key) is True

    def part(self, key: str) -> "Document":
        """Give an object inside; an empty one when there is none."""
        value = self.content.get(key)
        return Document(value if isinstance(value, dict) else {})

    def parts(self, key: str) -> "list[Document]":
        """Give the objects of a list inside."""
        value = self.content.get(key)
        items = value if isinstance(value, list) else []
        return [Document(item) for item in items if isinstance(item, dict)]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
