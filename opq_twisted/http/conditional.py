"""Conditional requests (RFC 9110, section 13)."""

import re
from collections.abc import Sequence

from twisted.web.http import NOT_MODIFIED, PRECONDITION_FAILED, stringToDatetime
from twisted.web.server import Request

_ENTITY_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def evaluate(request: Request, etag: bytes, modified: int | None = None) -> int | None:
    """
    Evaluate the conditions of a GET or HEAD in the order of RFC 9110 section 13.2.2.

    :param etag: the representation's strong entity tag, quotes included.
    :param modified: the time of its last change, in seconds since the epoch; None if unknown.
    :returns: 412, 304, or None to answer the request normally.
    """
    if_match = _header(request, b"If-Match")
    if if_match is not None:
        if not _matches(if_match, etag, weakly=False):
            return PRECONDITION_FAILED
    elif modified is not None:
        limit = _date(request, b"If-Unmodified-Since")
        if limit is not None and modified > limit:
            return PRECONDITION_FAILED
    if_none_match = _header(request, b"If-None-Match")
    if if_none_match is not None:
        return NOT_MODIFIED if _matches(if_none_match, etag, weakly=True) else None
    if modified is not None:
        since = _date(request, b"If-Modified-Since")
        if since is not None and modified <= since:
            return NOT_MODIFIED
    return None


def tags_known(request: Request) -> Sequence[bytes]:
    """Parse the entity tags of `If-None-Match`, quotes included (RFC 9110, section 13.1.2)."""
    header = _header(request, b"If-None-Match") or b""
    return [tag for _, tag in _ENTITY_TAG.findall(header)]


def range_applies(request: Request, etag: bytes, modified: int, now: float) -> bool:
    """
    Evaluate If-Range: whether the client's part belongs to the current file (section 13.1.5).

    A date is a strong validator only if its second is over: otherwise the file could change once
    more within that second (section 8.8.2.2).
    """
    validator = _header(request, b"If-Range")
    if validator is None:
        return True
    if _ENTITY_TAG.fullmatch(validator):
        return validator == etag
    return _date(request, b"If-Range") == modified and modified + 1 <= now


def _header(request: Request, name: bytes) -> bytes | None:
    values = request.requestHeaders.getRawHeaders(name)
    return None if values is None else b", ".join(values)


def _matches(header: bytes, etag: bytes, *, weakly: bool) -> bool:
    """Compare entity tags weakly or strongly (RFC 9110, section 8.8.3.2)."""
    if header.strip() == b"*":
        return True
    return any(tag == etag and (weakly or not weak) for weak, tag in _ENTITY_TAG.findall(header))


def _date(request: Request, name: bytes) -> int | None:
    """Parse an HTTP date, in seconds since the epoch; an invalid date is ignored."""
    header = _header(request, name)
    try:
        return None if header is None else stringToDatetime(header)
    except (ValueError, IndexError, KeyError):
        return None
