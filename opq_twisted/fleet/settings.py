"""The fleet's options on the command line of the server, as values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from attrs import Factory, frozen
from twisted.logger import Logger

from opq_twisted.common import files
from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.widen_hours import WidenHours
from opq_twisted.http.connection_limits import ConnectionLimits

#: The limit of bytes of a file with a secret.
_MAX_FILE = 4096

#: A secret must have so many characters. From a signature, somebody could guess a shorter one.
_MIN_SECRET = 16

_log = Logger()

#: How keys of boxes get into the database.
Enrolment = Literal["open", "token", "closed"]

#: The modes of the engine.
#:
#:   off      A new release goes to all boxes for which it was signed. The engine does not run.
#:   observe  The same, but the engine judges the rollout, and says what it would do.
#:   ask      A new release begins at the first step. The engine holds it if it is bad, and asks a
#:            person to widen it.
#:   auto     The same, but the engine also widens it.
Rollouts = Literal["off", "observe", "ask", "auto"]


def begins_small(mode: Rollouts) -> bool:
    """Whether a new release begins at the first step."""
    return mode in ("ask", "auto")


@frozen(kw_only=True)
class PageSettings:
    """The values of `--fleet-operators` and the other options of the fleet's page."""

    #: The file with the people and programs that may use the page.
    operators: Path
    #: A TCP port, or an endpoint description of Twisted.
    port: str = "tcp:8152:interface=127.0.0.1"
    #: Host names of the page besides those of the machine.
    hosts: Sequence[str] = ()
    limits: ConnectionLimits


@frozen(kw_only=True)
class FleetSettings:
    """The values of `--fleet-db` and the other options of the fleet."""

    #: `sqlite:///PATH` or `postgresql://…`.
    url: str
    enrolment: Enrolment = "open"
    #: The secret that boxes have in their configuration; needed with `token`.
    token: str | None = None
    rollouts: Rollouts = "off"
    #: The hours in which the engine widens rollouts.
    widen_hours: WidenHours = Factory(WidenHours)
    #: All times of the engine are divided by this, for a demonstration.
    shorten: float = 1.0
    #: The URL that gets a message about each decision and problem.
    webhook: str | None = None
    #: The secret that signs these messages; None for no signature.
    webhook_secret: str | None = None
    #: The Unix socket for `opq-fleet`.
    socket: Path = Path("/run/opq-update-server/fleet.sock")
    #: None if there is no page.
    page: PageSettings | None = None


def read_secret(path: Path, option: str) -> str:
    """
    Read a secret: the first line of a file, without spaces at its ends.

    :param option: the one that names the file, without its dashes.
    :raises CannotStart: if it cannot be read, or is too short.
    """
    try:
        line = files.read(path, _MAX_FILE).partition(b"\n")[0].decode().strip()
        is_open = files.is_open_to_others(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "It is not UTF-8"
        raise CannotStart(f"Cannot read --{option} {path}: {reason}.") from None
    if len(line) < _MIN_SECRET:
        raise CannotStart(
            f"The first line of --{option} {path} must be a secret of {_MIN_SECRET} characters or "
            "more, for example the output of: openssl rand -hex 32"
        )
    if is_open:
        _log.warn(
            "Every user of this machine can read the secret in {path}: chmod go-rwx {path}",
            path=path,
        )
    return line
