"""Chooses the media type that a client prefers (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Sequence

from twisted.web.server import Request

_WEIGHT = re.compile(rb"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


def preferred(request: Request, forms: Sequence[bytes]) -> bytes:
    """
    Choose a media type by the weights in `Accept`.

    A client that accepts all of them (`*/*`, or no header) gets the first one. A client that
    accepts none gets it too: a response is of more use than an error.

    :param forms: the available media types, in the server's order of preference.
    """
    weights = _weights(request)

    def weight(form: bytes) -> float:
        kind = form.partition(b"/")[0]
        # The most specific media range decides.
        ranges = (form, kind + b"/*", b"*/*")
        return next((weights[each] for each in ranges if each in weights), 0.0)

    return max(forms, key=weight)


def _weights(request: Request) -> dict[bytes, float]:
    """
    Parse the media ranges, and leave out malformed ones.

    Parameters such as `charset` are ignored: no media type here has any.
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
