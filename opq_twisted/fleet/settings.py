"""The fleet's options on the command line of the server, as values."""

from pathlib import Path
from typing import Literal

from attrs import Factory, frozen
from twisted.logger import Logger

from opq_twisted.common import files
from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.widen_hours import WidenHours

#: Bytes of the file with the enrolment token, and characters of the token. Whoever sees the report
#: of a new box can try guesses at a shorter one.
_MAX_FILE, _MIN_TOKEN = 4096, 16

_log = Logger()

#: How keys of boxes get into the database.
Enrolment = Literal["open", "token", "closed"]

#: Who decides about a rollout. With `off` and `observe` a new release goes as it was signed; with
#: `ask` and `auto` it begins at the first step. The engine judges it in all modes but `off`: with
#: `observe` it only says what it would do, with `ask` it holds and asks an operator to widen, and
#: with `auto` it does both itself.
Rollouts = Literal["off", "observe", "ask", "auto"]


def begins_small(mode: Rollouts) -> bool:
    """Whether a new release begins at the first step."""
    return mode in ("ask", "auto")


@frozen(kw_only=True)
class FleetSettings:
    """What `--fleet-db` and the options beside it say."""

    #: `sqlite:///PATH` or `postgresql://…`.
    url: str
    enrolment: Enrolment = "open"
    #: The secret that boxes have in their configuration; needed with `token`.
    token: str | None = None
    rollouts: Rollouts = "off"
    #: In which the engine widens rollouts.
    widen_hours: WidenHours = Factory(WidenHours)
    #: All times of the engine are divided by this, for a demonstration.
    shorten: float = 1.0
    #: The Unix socket for `opq-fleet`.
    socket: Path = Path("/run/opq-update-server/fleet.sock")


def read_token(path: Path) -> str:
    """
    Read the enrolment token: the first line of a file, without spaces at its ends.

    :raises CannotStart: if it cannot be read, or is too short.
    """
    try:
        line = files.read(path, _MAX_FILE).partition(b"\n")[0].decode().strip()
        is_open = files.is_open_to_others(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "It is not UTF-8"
        raise CannotStart(f"Cannot read --enrol-token-file {path}: {reason}.") from None
    if len(line) < _MIN_TOKEN:
        raise CannotStart(
            f"The first line of --enrol-token-file {path} must be a token of {_MIN_TOKEN} "
            "characters or more, for example the output of: openssl rand -hex 32"
        )
    if is_open:
        _log.warn(
            "Every user of this machine can read the token in {path}: chmod go-rwx {path}",
            path=path,
        )
    return line
