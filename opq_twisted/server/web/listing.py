"""The HTML page of `/ls`: a table of the archives on offer."""

import hashlib
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from attrs import define, field
from twisted.web.http import OK

from opq_twisted.archive.name import parse_version
from opq_twisted.common import wording
from opq_twisted.common.errors import InvalidName
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.snapshot import Archive, Catalog
from opq_twisted.server.timestamp.signed_archives import (
    CurrentSignedArchives,
    SignatureStatus,
    SignedArchives,
)
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.trust.offer import Offer

_FILES = Path(__file__).with_name("page")

#: Maximum rows of a page, and channels in a row, because each request renders the page again.
_MAX_ROWS = 100
_MAX_OFFERS = 4

_WORDS = {
    SignatureStatus.SIGNED: "signed",
    SignatureStatus.UNSIGNED: "not signed",
    SignatureStatus.MISMATCH: "does not match",
}


@define(eq=False)
class ListingPage:
    """Renders the page, with the newest archives first."""

    _catalog: Catalog
    _digests: Digests
    #: Gives the current state of the signed metadata.
    _metadata_state: Callable[[], MetadataState]
    #: Gives the time, in seconds since the epoch.
    _now: Callable[[], float] = time.time
    _signed: CurrentSignedArchives = field(init=False)
    _page: Template = field(init=False)
    _row: Template = field(init=False)
    _headers: Mapping[bytes, bytes] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Read the page's files."""
        self._signed = CurrentSignedArchives(self._catalog.directory, self._metadata_state)
        style = _read("page.css")
        self._page = Template(_read("index.html").replace("$style", style))
        self._row = Template(_read("row.html"))
        digest = b64encode(hashlib.sha256(style.encode()).digest())
        self._headers = {
            b"Content-Security-Policy": b"default-src 'none'; style-src 'sha256-%s'; "
            b"form-action 'none'; frame-ancestors 'none'; base-uri 'none'" % digest,
            b"Referrer-Policy": b"no-referrer",
        }

    def reply(self, request: BoundedRequest, headers: Mapping[bytes, bytes]) -> Reply:
        """
        Reply with the newest archives, or with those before the version in the query.

        :param headers: the headers that all media types of the list have.
        """
        snapshot, before = self._catalog.snapshot, _before(request)
        archives = snapshot.latest(_MAX_ROWS, before)
        problem = self._problem()
        more = bool(archives) and archives[-1] != snapshot.archives[0]
        frame = _escaped(
            problem=problem,
            caption=f"{len(snapshot.archives):,} on offer, the newest first",
            oldest=archives[-1].name.version if archives else "",
            hide_problem="" if problem else "hidden",
            hide_nothing="hidden" if snapshot.archives else "",
            hide_table="" if snapshot.archives else "hidden",
            hide_nav="" if more or before is not None else "hidden",
            hide_newest="hidden" if before is None else "",
            hide_older="" if more else "hidden",
        )
        now, signed = self._now(), self._signed.current
        rows = (self._row.substitute(self._describe(each, signed, now)) for each in archives)
        page = self._page.substitute(frame, rows="".join(rows))
        return Reply.of(
            OK, page.encode(), b"text/html; charset=utf-8", {**headers, **self._headers}
        )

    def _problem(self) -> str:
        """Give a sentence for readers of the list; empty if there is no problem."""
        if self._catalog.problem is not None:
            return f"{self._catalog.problem} The list shows the last known state."
        if self._metadata_state().alerts:
            return "Something is wrong with the signatures. See the log of the server."
        return ""

    def _describe(self, archive: Archive, signed: SignedArchives, now: float) -> dict[str, str]:
        version, digest = archive.name.version, self._digests.known(archive)
        status = signed.status(archive, digest)
        return _escaped(
            name=archive.name,
            version=version,
            built=wording.utc(version),
            age=wording.age(now - version),
            size=wording.short_size(archive.size),
            status=status.value,
            signed=_WORDS[status],
            offers=_describe_offers(signed.offers(archive), version),
            known="unknown" if digest is None else "known",
            digest="not known yet" if digest is None else digest.hex(),
        )


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _escaped(**values: object) -> dict[str, str]:
    """Escape values for HTML."""
    return {name: escape(str(value)) for name, value in values.items()}


def _before(request: BoundedRequest) -> int | None:
    """Parse `?before=VERSION`; ignore anything else, as the other media types do."""
    try:
        return parse_version(request.args[b"before"][0].decode("ascii", "replace"))
    except (KeyError, InvalidName):
        return None


def _describe_offers(offers: Sequence[tuple[str, Offer]], version: int) -> str:
    """Write a line for each channel that offers a release of this version."""
    named = [f"{channel}: {_share(offer, version)}" for channel, offer in offers[:_MAX_OFFERS]]
    left = len(offers) - len(named)
    return "\n".join([*named, f"and {left} more"] if left else named)


def _share(offer: Offer, version: int) -> str:
    if offer.version != version:
        return "all other boxes"
    if offer.rollout is None or offer.critical:
        return "all boxes"
    return f"{offer.rollout.percent} % of the boxes"
