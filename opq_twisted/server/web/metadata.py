"""The signed metadata over HTTP: a few small files, for which a whole fleet asks each time."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from twisted.logger import Logger
from twisted.web.http import (
    NOT_FOUND,
    NOT_MODIFIED,
    OK,
    PRECONDITION_FAILED,
    SERVICE_UNAVAILABLE,
)
from twisted.web.resource import IResource

from opq_twisted.common.errors import MACHINE_BUSY
from opq_twisted.http.conditional import evaluate
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import PlainResource
from opq_twisted.server.catalog.snapshot import Identity, identify
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.server.timestamp.store import read
from opq_twisted.trust.repository_reader import NAME, TIMESTAMP_FILE, Unusable
from opq_twisted.trust.tuf_client import METADATA

#: Bytes and files that are kept in memory: one of the largest that a box takes, and the usual ones.
_MOST_KEPT = 6_000_000
_MOST_FILES = 256

# Nobody may keep it: a box asks for the next root each time, until there is one.
_NOT_FOUND = Reply.sentence(NOT_FOUND, "There is no such metadata.")

_BUSY = Reply.sentence(
    SERVICE_UNAVAILABLE,
    "The server is busy. Try again in a little while.",
    {b"Retry-After": b"30"},
)


_ASK_EACH_TIME = b"no-cache"
_FOR_EVER = b"public, max-age=31536000, immutable"
_NEVER = b"no-store"


@frozen
class _Kept:
    """The content of a file for as long as it is in this state."""

    identity: Identity
    #: Empty for a file that is not served.
    etag: bytes
    data: bytes

    def reply(self, outcome: int | None, cache_control: bytes) -> Reply:
        """Make the answer for an outcome of `evaluate`."""
        headers = {b"Cache-Control": cache_control, b"ETag": self.etag}
        if outcome is None:
            return Reply.of(OK, self.data, b"application/json", headers)
        if outcome == NOT_MODIFIED:
            return Reply.of(NOT_MODIFIED, headers=headers)
        return Reply.of(PRECONDITION_FAILED)


class MetadataFiles(PlainResource):
    """
    `/tuf/`: one child for each name that metadata can have.

    Caches may keep only verified files: the right file would otherwise not get past a wrong one of
    the same name for a year. All others are served as `no-store`.
    """

    _log = Logger()

    def __init__(self, updates: Path, metadata_state: Callable[[], MetadataState]) -> None:
        """:param metadata_state: tells how the signed metadata is."""
        super().__init__()
        self._folder = updates / METADATA
        self._metadata_state = metadata_state
        #: The state of the metadata for which the next one was found.
        self._verified_for: MetadataState | None = None
        #: Whether a file has the bytes that were verified, by its name.
        self._verified: dict[str, bool] = {}
        #: The files asked for, the one asked for last at the end.
        self._kept: dict[str, _Kept] = {}
        self._size = 0

    def getChild(self, path: bytes, request: BoundedRequest) -> IResource:
        """Find what can be a file of the metadata."""
        name = path.decode("ascii", "replace")
        if request.postpath or not NAME.fullmatch(name):
            return super().getChild(path, request)
        return _MetadataFile(self, name)

    def answer(self, request: BoundedRequest, name: str) -> Reply:
        """Answer with a file, from memory while it has not changed."""
        try:
            identity = identify(os.stat(self._folder / name))
            kept = self._kept.pop(name, None)
            if kept is None or kept.identity != identity:
                if kept is not None:
                    self._size -= len(kept.data)
                self._verified.pop(name, None)
                kept = self._read(name, identity)
                self._size += len(kept.data)
        except OSError as error:
            return _BUSY if error.errno in MACHINE_BUSY else _NOT_FOUND
        self._kept[name] = kept
        while self._size > _MOST_KEPT or len(self._kept) > _MOST_FILES:
            self._size -= len(self._kept.pop(next(iter(self._kept))).data)
        if not kept.etag:
            return _NOT_FOUND
        return kept.reply(evaluate(request, kept.etag), self._cache_control(name, kept))

    def _cache_control(self, name: str, kept: _Kept) -> bytes:
        if name == TIMESTAMP_FILE:
            return _ASK_EACH_TIME
        metadata_state = self._metadata_state()
        if metadata_state is not self._verified_for:
            self._verified_for, self._verified = metadata_state, {}
        if name not in self._verified:
            self._verified[name] = metadata_state.final.get(name) == kept.data
        return _FOR_EVER if self._verified[name] else _NEVER

    def _read(self, name: str, identity: Identity) -> _Kept:
        """
        Read a file, or find out why it is not served.

        :raises OSError: when the machine cannot open it now.
        """
        try:
            data, identity = read(self._folder, name)
            _require_whole(name, data)
        except Unusable as reason:
            self._log.warn("{name} is not served: {reason}", name=name, reason=str(reason))
            return _Kept(identity, b"", b"")
        # Made of the content: several servers, over copies of the folder, agree about it.
        etag = b'"%s"' % hashlib.sha256(data).hexdigest()[:32].encode()
        return _Kept(identity, etag, data)


class _MetadataFile(PlainResource):
    isLeaf = True

    def __init__(self, files: MetadataFiles, name: str) -> None:
        super().__init__()
        self._files = files
        self._name = name

    def render_GET(self, request: BoundedRequest) -> Reply:
        return self._files.answer(request, self._name)


def _require_whole(name: str, data: bytes) -> None:
    """
    Find out whether a file's upload is over: half of one is of no use to a box.

    :raises Unusable: when it is not.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "signed" not in content:
        raise Unusable(f"{name} is no metadata: its upload goes on, or was cut off")
