"""The HTML page of `/ls`: a table of the archives on offer."""

import hashlib
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from string import Template

from attrs import define, field
from tuf.api.metadata import Timestamp
from twisted.web.http import OK

from opq_twisted.archive.name import parse_version
from opq_twisted.common import wording
from opq_twisted.common.errors import InvalidName
from opq_twisted.http.reply import Reply
from opq_twisted.http.request import BoundedRequest
from opq_twisted.http.stylesheet import SHARED_STYLE
from opq_twisted.server.catalog.digests import Digests
from opq_twisted.server.catalog.snapshot import Catalog
from opq_twisted.server.catalog.updates_file import Archive
from opq_twisted.server.timestamp.alerts import expiry_alerts
from opq_twisted.server.timestamp.signed_archives import (
    CurrentSignedArchives,
    SignatureStatus,
    SignedArchives,
)
from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.server.web.channels import describe_channels, time_of
from opq_twisted.trust.offer import Offer

_FILES = Path(__file__).with_name("page")

#: Maximum rows of a page, channels in a row, and problems with their characters, because each
#: request renders the page again.
_MAX_ROWS = 100
_MAX_OFFERS = 4
_MAX_PROBLEMS = 8
_MAX_PROBLEM = 500

#: Those of a SHA-256.
_HEX_DIGITS = 64

_UNSIGNED = (
    "Boxes get the newest release, of {}. It is not signed: boxes that check signatures do not "
    "install it."
)
_MORE_PROBLEMS = "There are more problems: see the log of the server."
_NOT_ANNOUNCED = "No release is announced to the boxes."
_NO_CHANNEL = "No channel offers a release. Publish one with: opq-release publish."

_WORDS = {
    SignatureStatus.SIGNED: "signed",
    SignatureStatus.UNSIGNED: "not signed",
    SignatureStatus.MISMATCH: "does not match",
}
_CLASSES = {
    SignatureStatus.SIGNED: "tag good",
    SignatureStatus.UNSIGNED: "unsigned",
    SignatureStatus.MISMATCH: "tag bad",
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
        style = SHARED_STYLE + _read("page.css")
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
        now, signed = self._now(), self._signed.current
        problems = list(islice(self._problems(now), _MAX_PROBLEMS + 1))
        if len(problems) > _MAX_PROBLEMS:
            problems[-1] = _MORE_PROBLEMS
        more = bool(archives) and archives[-1] != snapshot.archives[0]
        frame = _escaped(
            caption=f"{len(snapshot.archives):,} on offer, the newest first",
            oldest=archives[-1].name.version if archives else "",
            hide_problems="" if problems else "hidden",
            hide_nothing="hidden" if snapshot.archives else "",
            hide_archives="" if snapshot.archives else "hidden",
            hide_nav="" if more or before is not None else "hidden",
            hide_newest="hidden" if before is None else "",
            hide_older="" if more else "hidden",
        )
        rows = (self._row.substitute(self._describe(each, signed, now)) for each in archives)
        page = self._page.substitute(
            frame,
            problems="".join(f"<li>{escape(each[:_MAX_PROBLEM])}</li>\n" for each in problems),
            channels=self._channels(signed),
            rows="".join(rows),
        )
        return Reply.of(
            OK,
            # A path or a text may have characters that UTF-8 has not.
            page.encode(errors="replace"),
            b"text/html; charset=utf-8",
            {**headers, **self._headers},
        )

    def _problems(self, now: float) -> Iterator[str]:
        """Yield a sentence for each problem, with its remedy."""
        if self._catalog.problem is not None:
            yield f"{self._catalog.problem} The list shows the last known state."
        state = self._metadata_state()
        for alert in (*state.alerts, *expiry_alerts(state.documents, now)):
            yield alert.sentence
        for name, reason in self._catalog.refused_updates():
            yield f"{name} is not offered: {reason}."

    def _channels(self, signed: SignedArchives) -> str:
        """Say in HTML which boxes get which release."""
        state, offered = self._metadata_state(), self._catalog.snapshot
        if state.present and Timestamp.type not in state.documents:
            return f"<p>{_NOT_ANNOUNCED}</p>\n"
        if state.present:
            timestamp = state.documents[Timestamp.type].signed
            described = describe_channels(signed.channels, timestamp, offered)
            return described or f"<p>{_NO_CHANNEL}</p>\n"
        if offered.newest is None:
            return ""
        return f"<p>{_UNSIGNED.format(time_of(offered.newest.name.version))}</p>\n"

    def _describe(self, archive: Archive, signed: SignedArchives, now: float) -> dict[str, str]:
        version, digest = archive.name.version, self._digests.known(archive)
        status = signed.status(archive, digest)
        known = None if digest is None else digest.hex()
        if known is None and status is SignatureStatus.SIGNED:
            known = signed.digest(archive)
        described = _escaped(
            name=archive.name,
            version=version,
            age=wording.age(now - version),
            size=wording.short_size(archive.size),
            status=_CLASSES[status],
            signed=_WORDS[status],
            hide_remedy="" if status is SignatureStatus.MISMATCH else "hidden",
            offers=_describe_offers(signed.offers(archive), version),
            known="unknown" if known is None else "known",
            digest="not known yet" if known is None else known[:_HEX_DIGITS],
        )
        return {**described, "built": time_of(version)}


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
