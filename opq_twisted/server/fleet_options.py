"""Reads the fleet's options on the command line of the server."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve
from twisted.internet import reactor

from opq_twisted.common.errors import CannotStart
from opq_twisted.http.connection_limits import ConnectionLimits
from opq_twisted.http.guards.host_name import is_host_name
from opq_twisted.server.web.long_poll import LongPollers
from opq_twisted.server.web_url import is_web_url

if TYPE_CHECKING:
    from opq_twisted.fleet.service import Fleet
    from opq_twisted.fleet.settings import PageSettings
    from opq_twisted.fleet.widen_hours import WidenHours

#: Times of the engine that are divided by more would be shorter than its own work.
_MOST_SHORTENED = 100_000


def _choice(option: str, *choices: str) -> Callable[[str], str]:
    """Make the function that accepts some values of an option only."""

    def coerce(text: str) -> str:
        if text not in choices:
            raise ValueError(f"--{option} {text}: give one of {', '.join(choices)}.")
        return text

    return coerce


def _widen_hours(text: str) -> "WidenHours":
    # Without the option, no module of the fleet is imported.
    from opq_twisted.fleet.widen_hours import WidenHours

    try:
        return WidenHours.parse(text)
    except ValueError as error:
        raise ValueError(f"--widen-hours {text}: {error}") from None


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= _MOST_SHORTENED:
        raise ValueError(f"--shorten-rollouts {text}: give a number from 1 to {_MOST_SHORTENED}.")
    return factor


def _webhook(text: str) -> str:
    if not is_web_url(text, query=True):
        # The message does not quote the URL: many chat services have a secret in it.
        raise ValueError(
            "--webhook: give a URL such as https://chat.example.org/hooks/fleet, with a valid name "
            "and port, and without a user name, a password or a fragment (#)."
        )
    return text


def _hosts(text: str) -> Sequence[str]:
    hosts = [each.strip() for each in text.split(",") if each.strip()]
    for host in hosts:
        # A name that no browser sends would be of no use, and nobody would know why.
        if not is_host_name(host) or "*" in host:
            raise ValueError(f"--fleet-host {host}: give names such as fleet.example.org.")
    return hosts


#: Connections to the page of the fleet: in total, and of one client.
_PAGE_CONNECTIONS, _PAGE_CONNECTIONS_EACH = 200, 50

#: As `optParameters` of `twisted.python.usage.Options`; all but the first one need that.
FLEET_PARAMETERS: tuple[list[Any], ...] = (
    ["fleet-db", None, None, "Database of the fleet: sqlite:///PATH or postgresql://..."],
    [
        *("enrol", None, "open", "How new keys of boxes are accepted: open, token or closed"),
        _choice("enrol", "open", "token", "closed"),
    ],
    ["enrol-token-file", None, None, "File with the secret of --enrol token"],
    [
        *("rollouts", None, "off", "What the engine may do: off, observe, ask or auto"),
        _choice("rollouts", "off", "observe", "ask", "auto"),
    ],
    [
        *("widen-hours", None, None),
        "Local time in which rollouts are widened, such as Mon-Thu/08-16 [default: always]",
        _widen_hours,
    ],
    [
        *("shorten-rollouts", None, 1),
        "Divide all times of rollouts by this number, to try them out",
        _factor,
    ],
    ["webhook", None, None, "URL for messages about rollouts", _webhook],
    ["webhook-secret-file", None, None, "File with the secret that signs its messages"],
    [
        "fleet-socket",
        None,
        None,
        "Unix socket for opq-fleet [default: /run/opq-update-server/fleet.sock]",
    ],
    ["fleet-operators", None, None, "File with the operators of the page of the fleet"],
    [
        *("fleet-port", None, None),
        "TCP port or endpoint of the fleet's page [default: tcp:8152:interface=127.0.0.1]",
    ],
    [
        *("fleet-host", None, None),
        *("Names of the fleet's page besides those of the machine, with commas", _hosts),
    ],
)


def make_fleet(
    options: Mapping[str, Any], limits: ConnectionLimits, waiting: LongPollers
) -> "Fleet | None":
    """
    Make the fleet's part, if the options name its database.

    :param limits: those of the connections of the boxes.
    """
    if options["fleet-db"] is None:
        for option, _, default, *_ in FLEET_PARAMETERS:
            if options[option] != default:
                raise CannotStart(f"--{option} is of no use without --fleet-db.")
        return None
    token_file = options["enrol-token-file"]
    if (options["enrol"] == "token") != (token_file is not None):
        raise CannotStart("--enrol token and --enrol-token-file FILE need each other.")
    secret_file = options["webhook-secret-file"]
    if secret_file is not None and options["webhook"] is None:
        raise CannotStart("--webhook-secret-file is of no use without --webhook.")
    try:
        # These packages are installed, and cost their memory, only where they are wanted.
        from opq_twisted.fleet.service import Fleet
        from opq_twisted.fleet.settings import FleetSettings, read_secret

        def read(option: str) -> str | None:
            path = options[option]
            return None if path is None else read_secret(Path(path), option)

        settings = FleetSettings(
            url=options["fleet-db"],
            enrolment=options["enrol"],
            token=read("enrol-token-file"),
            rollouts=options["rollouts"],
            shorten=options["shorten-rollouts"],
            webhook=options["webhook"],
            webhook_secret=read("webhook-secret-file"),
        )
        if options["widen-hours"] is not None:
            settings = evolve(settings, widen_hours=options["widen-hours"])
        if options["fleet-socket"] is not None:
            settings = evolve(settings, socket=Path(options["fleet-socket"]))
        settings = evolve(settings, page=_page_settings(options, limits))
        return Fleet(reactor, settings, time.time, limits.trusted, lambda: waiting)
    except ImportError as error:
        raise CannotStart(
            f"--fleet-db needs more Python packages ({error}): install those of "
            "requirements-fleet.lock."
        ) from None


def _page_settings(options: Mapping[str, Any], limits: ConnectionLimits) -> "PageSettings | None":
    """Make the settings of the page, if the options name its operators."""
    from opq_twisted.fleet.settings import PageSettings

    if options["fleet-operators"] is None:
        for option in ("fleet-port", "fleet-host"):
            if options[option] is not None:
                raise CannotStart(f"--{option} is of no use without --fleet-operators FILE.")
        return None
    settings = PageSettings(
        operators=Path(options["fleet-operators"]),
        hosts=options["fleet-host"] or (),
        limits=evolve(limits, connections=_PAGE_CONNECTIONS, each=_PAGE_CONNECTIONS_EACH),
    )
    port = options["fleet-port"]
    return settings if port is None else evolve(settings, port=port)
