"""Reads the fields of requests of `opq-fleet`."""

import re
from collections.abc import Mapping
from typing import Any

from opq_twisted.common import strict_json
from opq_twisted.fleet.control.answers import RequestInvalid
from opq_twisted.http.request import BoundedRequest

_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_HEXADECIMAL = re.compile(r"[0-9a-f]{32}", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,16}", re.ASCII)


class Fields:
    """
    The fields of a query or of a JSON body; a field that is missing is None.

    All methods raise `RequestInvalid` if a field is there and has a wrong value.
    """

    def __init__(self, content: Mapping[str, Any], *, are_texts: bool = False) -> None:
        """:param are_texts: whether numbers are strings of digits, as in a query or a form."""
        self._content = content
        self._are_texts = are_texts

    @classmethod
    def of_query(cls, request: BoundedRequest) -> "Fields":
        """
        Read the query of a request.

        :raises RequestInvalid: if a field is there twice.
        """
        content = {}
        for name, values in request.args.items():
            if len(values) != 1:
                raise RequestInvalid(f"The field {name.decode('latin-1')!r} is there twice.")
            content[name.decode("latin-1")] = values[0].decode("utf-8", "replace")
        return cls(content, are_texts=True)

    @classmethod
    def of_body(cls, request: BoundedRequest) -> "Fields":
        """
        Read the body of a request.

        :raises RequestInvalid: if it is not a JSON object.
        """
        body = request.content.read() if request.content else b""
        try:
            return cls(strict_json.parse_object(body))
        except ValueError:
            raise RequestInvalid("The body is not a JSON object.") from None

    def number(self, name: str, most: int = strict_json.MAX_NUMBER) -> int | None:
        """Read a whole number from 0 to `most`."""
        value = self._content.get(name)
        if self._are_texts and value is not None and _DIGITS.fullmatch(value):
            value = int(value)
        if value is not None and (type(value) is not int or not 0 <= value <= most):
            raise RequestInvalid(f"The field {name!r} must be a whole number from 0 to {most}.")
        return value

    def word(self, name: str) -> str | None:
        """Read a word of lower-case letters, digits and hyphens."""
        value = self._content.get(name)
        if value is not None and not (isinstance(value, str) and _WORD.fullmatch(value)):
            raise RequestInvalid(f"The field {name!r} must be a lower-case word.")
        return value

    def text(self, name: str) -> str:
        """Read a text; empty if it is missing."""
        value = self._content.get(name, "")
        if not isinstance(value, str):
            raise RequestInvalid(f"The field {name!r} must be a text.")
        return value

    def hexadecimal(self, name: str) -> str:
        """Read an id of 32 hexadecimal digits; empty if it is missing."""
        value = self.text(name)
        if value and not _HEXADECIMAL.fullmatch(value):
            raise RequestInvalid(f"The field {name!r} must have 32 hexadecimal digits.")
        return value

    def items(self, name: str, most: int) -> list[Any]:
        """Read a list of at most so many items; empty if it is missing."""
        value = self._content.get(name, [])
        if not isinstance(value, list) or len(value) > most:
            raise RequestInvalid(f"The field {name!r} must be a list of at most {most} items.")
        return value

    def required_number(self, name: str) -> int:
        """Read a number that must be there."""
        value = self.number(name)
        if value is None:
            raise RequestInvalid(f"The field {name!r} is missing.")
        return value
