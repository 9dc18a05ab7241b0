"""Chooses among the forms of an answer what the client likes best (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Sequence

from twisted.web.server import Request

_WEIGHT = re.compile(rb"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


def preferred(request: Request, forms: Sequence[bytes]) -> bytes:
    """
    Choose a media type by the weights in `Accept`.

    What is given for any of them (`*/*`, or no header at all) is the first one. So is what a client
    gets that takes none of them, which is of more use to it than a refusal.

    :param forms: the media types there are, in the server's own order of preference.
    """
    weights = _weights(request)

    def weight(form: bytes) -> float:
        kind = form.partition(b"/")[0]
        # The most specific range that covers a type decides.
        ranges = (form, kind + b"/*", b"*/*")
        return next((weights[each] for each in ranges if each in weights), 0.0)

    return max(forms, key=weight)


def _weights(request: Request) -> dict[bytes, float]:
    """
    Read the media ranges, and leave out what is malformed.

    Their own parameters, as `charset`, do not count: no form here has any that a client could mean.
    """
    weights = {}
    for header in request.requestHeaders.getRawHeaders(b"Accept", ()):
        for entry in header.lower().split(b","):
            media_range, *parameters = (part.strip(b" \t") for part in entry.split(b";"))
            given = [each for each in parameters if each.startswith(b"q=")]
            match = _WEIGHT.fullmatch(given[0]) if given else None
            if match is not None or not given:
                weights[media_range] = 1.0 if match is None else float(match[1])
    return weights
