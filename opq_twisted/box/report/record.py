"""The last report of this box, for its owner to read."""

import json

from attrs import define, frozen


@frozen
class SentReport:
    """A report as it was sent, and the answer."""

    #: The JSON, character for character.
    body: str
    #: In seconds since the epoch.
    sent: float
    #: A sentence.
    answer: str

    @property
    def indented(self) -> str:
        """The same JSON, with line breaks for people."""
        return json.dumps(json.loads(self.body), indent=2)


@define
class ReportRecord:
    """Keeps the last report, in memory only."""

    #: The fingerprint of the box's key; None: it sends no reports.
    fingerprint: str | None = None
    #: None: none was sent since the agent's start.
    last: SentReport | None = None
