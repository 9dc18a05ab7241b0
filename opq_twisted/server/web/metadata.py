"""Serves the signed metadata, a few small files that every box requests, from memory."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from twisted.logger import Logger
from twisted.web.http import NOT_FOUND, NOT_MODIFIED, OK, PRECONDITION_FAILED, SERVICE_UNAVAILABLE
from twisted.web.resource import IResource

from opq_twisted.common.errors import MACHINE_BUSY
from opq_twisted.http.conditional import evaluate
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.resource import FunctionResource, PlainResource
from opq_twisted.server.catalog.updates_file import Identity, identify
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.server.timestamp.store import read
from opq_twisted.trust.metadata_files import METADATA
from opq_twisted.trust.repository_reader import NAME, TIMESTAMP_FILE, Unusable

#: Maximum of the cached bytes and files: one file of the maximum size for boxes, and usual ones.
_MAX_CACHED = 6_000_000
_MAX_FILES = 256

# This must not be cached: boxes request the next root each time, until there is one.
_NOT_FOUND = Reply.sentence(NOT_FOUND, "There is no such metadata.")

_BUSY = Reply.sentence(
    SERVICE_UNAVAILABLE,
    "The server is busy. Try again in a little while.",
    {b"Retry-After": b"30"},
)

_REVALIDATE = b"no-cache"
_FOR_EVER = b"public, max-age=31536000, immutable"
_NEVER = b"no-store"


@frozen
class _CachedFile:
    """A file's content in one state."""

    identity: Identity
    #: Empty if the file is not served.
    etag: bytes
    data: bytes

    def reply(self, outcome: int | None, cache_control: bytes) -> Reply:
        """Make the reply for a result of `evaluate`."""
        headers = {b"Cache-Control": cache_control, b"ETag": self.etag}
        if outcome is None:
            return Reply.of(OK, self.data, b"application/json", headers)
        if outcome == NOT_MODIFIED:
            return Reply.of(NOT_MODIFIED, headers=headers)
        return Reply.of(PRECONDITION_FAILED)


class MetadataFiles(PlainResource):
    """
    `/tuf/`: one child for each possible name of a metadata file.

    Caches may keep only verified files. Otherwise a wrong file in a cache could hide the right one
    of the same name for a year. All other files are served with `no-store`.
    """

    _log = Logger()

    def __init__(self, updates: Path, metadata_state: Callable[[], MetadataState]) -> None:
        """:param metadata_state: gives the current state of the signed metadata."""
        super().__init__()
        self._folder = updates / METADATA
        self._metadata_state = metadata_state
        #: The metadata state to which `_verified` belongs.
        self._verified_for: MetadataState | None = None
        #: Whether a file has the verified bytes, by name.
        self._verified: dict[str, bool] = {}
        #: The cached files by name, the least recently requested first.
        self._cache: dict[str, _CachedFile] = {}
        self._size = 0

    def getChild(self, path: bytes, request: BoundedRequest) -> IResource:
        """Give a child for any possible name of a metadata file."""
        name = path.decode("ascii", "replace")
        if request.postpath or not NAME.fullmatch(name):
            return super().getChild(path, request)
        return FunctionResource(lambda request: self.reply(request, name))

    def reply(self, request: BoundedRequest, name: str) -> Reply:
        """Reply with a file; read it only if it has changed."""
        try:
            identity = identify(os.stat(self._folder / name))
            cached = self._cache.pop(name, None)
            if cached is None or cached.identity != identity:
                if cached is not None:
                    self._size -= len(cached.data)
                self._verified.pop(name, None)
                cached = self._read(name, identity)
                self._size += len(cached.data)
        except OSError as error:
            return _BUSY if error.errno in MACHINE_BUSY else _NOT_FOUND
        self._cache[name] = cached
        while self._size > _MAX_CACHED or len(self._cache) > _MAX_FILES:
            self._size -= len(self._cache.pop(next(iter(self._cache))).data)
        if not cached.etag:
            return _NOT_FOUND
        return cached.reply(evaluate(request, cached.etag), self._cache_control(name, cached))

    def _cache_control(self, name: str, cached: _CachedFile) -> bytes:
        if name == TIMESTAMP_FILE:
            return _REVALIDATE
        metadata_state = self._metadata_state()
        if metadata_state is not self._verified_for:
            self._verified_for, self._verified = metadata_state, {}
        if name not in self._verified:
            self._verified[name] = metadata_state.final.get(name) == cached.data
        return _FOR_EVER if self._verified[name] else _NEVER

    def _read(self, name: str, identity: Identity) -> _CachedFile:
        """
        Read a file, or log why it is not served.

        :raises OSError: if the machine cannot open it now.
        """
        try:
            data, identity = read(self._folder, name)
            if not _is_whole(data):
                raise Unusable(f"{name} is damaged or incomplete")
        except Unusable as reason:
            self._log.warn("{name} is not served: {reason}", name=name, reason=str(reason))
            return _CachedFile(identity, b"", b"")
        # A digest of the content is the same on all servers with a copy of the folder.
        etag = b'"%s"' % hashlib.sha256(data).hexdigest()[:32].encode()
        return _CachedFile(identity, etag, data)


def _is_whole(data: bytes) -> bool:
    """Whether the upload of a file is complete: boxes cannot use half a file."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "signed" in content
