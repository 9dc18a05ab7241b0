"""Reads JSON from untrusted sources, as strictly as its standard is."""

import json
from typing import Any, NoReturn

#: The largest number that every JSON reader keeps exactly (RFC 8259, section 6).
MAX_NUMBER = 2**53 - 1


def parse(text: str | bytes) -> Any:
    """
    Parse JSON; the caller limits its length.

    :raises ValueError: if it is not JSON, has NaN or Infinity, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """
    Parse a JSON object; the caller limits its length.

    :raises ValueError: if it is not JSON, as for `parse`, or not an object.
    """
    content = parse(text)
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    return content


def _refuse(constant: str) -> NoReturn:
    # RFC 8259, section 6.
    raise ValueError(f"{constant} is not JSON")
