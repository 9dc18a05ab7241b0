"""The options of the fleet on the command line of the server, and what is made of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve
from twisted.internet import reactor

from opq_twisted.common.errors import CannotStart
from opq_twisted.http.connection_limits import Network
from opq_twisted.server.web.long_poll import LongPollers

if TYPE_CHECKING:
    from opq_twisted.fleet.service import Fleet


def _choice(option: str, *choices: str) -> Callable[[str], str]:
    """Make the function that accepts some values of an option only."""

    def coerce(text: str) -> str:
        if text not in choices:
            raise ValueError(f"--{option} {text}: give one of {', '.join(choices)}.")
        return text

    return coerce


#: As `optParameters` of `twisted.python.usage.Options`; all but the first one need that.
FLEET_PARAMETERS: tuple[list[Any], ...] = (
    ["fleet-db", None, None, "Database of the fleet: sqlite:///PATH or postgresql://..."],
    [
        *("enrol", None, "open", "How the keys of boxes become known: open, token or closed"),
        _choice("enrol", "open", "token", "closed"),
    ],
    ["enrol-token-file", None, None, "File with the secret of --enrol token"],
    [
        *("rollouts", None, "off", "Who decides about rollouts: off, observe, ask or auto"),
        _choice("rollouts", "off", "observe", "ask", "auto"),
    ],
    [
        "fleet-socket",
        None,
        None,
        "Unix socket for opq-fleet [default: /run/opq-update-server/fleet.sock]",
    ],
)


def make_fleet(
    options: Mapping[str, Any], trusted: Sequence[Network], waiting: LongPollers
) -> "Fleet | None":
    """Make the fleet's part, if the options name its database."""
    if options["fleet-db"] is None:
        for option, _, default, *_ in FLEET_PARAMETERS:
            if options[option] != default:
                raise CannotStart(f"--{option} is of no use without --fleet-db.")
        return None
    token_file = options["enrol-token-file"]
    if (options["enrol"] == "token") != (token_file is not None):
        raise CannotStart("--enrol token and --enrol-token-file FILE need each other.")
    try:
        # These packages are installed, and cost their memory, only where they are wanted.
        from opq_twisted.fleet.service import Fleet
        from opq_twisted.fleet.settings import FleetSettings, read_token

        settings = FleetSettings(
            url=options["fleet-db"],
            enrolment=options["enrol"],
            token=None if token_file is None else read_token(Path(token_file)),
            rollouts=options["rollouts"],
        )
        if options["fleet-socket"] is not None:
            settings = evolve(settings, socket=Path(options["fleet-socket"]))
        return Fleet(reactor, settings, time.time, trusted, lambda: waiting)
    except ImportError as error:
        raise CannotStart(
            f"--fleet-db needs more Python packages ({error}): install those of "
            "requirements-fleet.lock."
        ) from None
