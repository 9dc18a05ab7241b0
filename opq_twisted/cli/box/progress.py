"""Shows the stages of an update on the terminal: a line each, and a bar for the download."""

from opq_twisted.box.state.stages import Stage
from opq_twisted.cli.program import say
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common import wording
from opq_twisted.common.progress_bar import ProgressBar

_REBOOTS = (
    "The box reboots now. On the box itself this ends the command, too: opq-box status shows the "
    "result afterwards."
)


def is_at_rest(status: Document) -> bool:
    """Tell whether no update is under way."""
    return status.text("stage") in [stage for stage in Stage if stage.at_rest]


class StageDisplay:
    """Prints the stages."""

    def __init__(self) -> None:
        self._line = ""
        self._bar: ProgressBar | None = None
        self._received = self._total = self._here = 0

    def __enter__(self) -> "StageDisplay":
        return self

    def __exit__(self, *_error: object) -> None:
        self._end_bar()

    def announce(self, text: str) -> None:
        """Print a text on its own line."""
        self._end_bar()
        say(text)

    def show(self, status: Document) -> None:
        """Show the stage of an update that is under way; its result is not printed here."""
        stage = status.text("stage")
        message = _REBOOTS if stage == Stage.REBOOTING else status.text("message")
        line = f"{stage}: {message}"
        if self._bar is not None and stage in (Stage.VERIFYING, Stage.UNPACKING):
            self._advance(self._total, self._total)
        if line != self._line and not is_at_rest(status):
            self._line = line
            self.announce(line)
        progress = status.part("progress")
        total, here = progress.integer("total"), progress.integer("here") or 0
        if total and here and here != self._here:
            self._here = here
            self.announce(f"{wording.download_progress(0, total, 0, here)}.")
        if total:
            self._advance(min(progress.integer("received") or 0, total), total)

    def _advance(self, received: int, total: int) -> None:
        if total != self._total or received < self._received:
            self._end_bar()
        if self._bar is None:
            self._bar, self._received, self._total = ProgressBar(total), 0, total
        self._bar(received - self._received)
        self._received = received

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None
