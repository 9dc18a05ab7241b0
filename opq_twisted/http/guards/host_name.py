"""Tells whether a text can be the name of a host."""

import re

#: A name, with an optional port.
_HOST = re.compile(r"[^\s/?#@:\[\]]{1,253}(:\d{1,5})?")


def is_host_name(text: str) -> bool:
    """Whether a text can be a name, also with a port; a URL or an address in brackets cannot."""
    return _HOST.fullmatch(text) is not None
