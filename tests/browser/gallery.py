"""Serves the box's page in each of its states."""

import os
import time
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor

from opq_twisted.box.config.settings import PageConfig
from opq_twisted.box.report.record import ReportRecord, SentReport
from opq_twisted.box.state.records import Attempt
from opq_twisted.box.state.stages import Stage
from opq_twisted.box.state.status import Progress
from opq_twisted.box.web.branding import read_branding
from opq_twisted.box.web.csrf import CsrfCheck
from opq_twisted.box.web.resources import make_root
from tests.browser.serving import listen, serve_all
from tests.helpers.box_fakes import NEW, OLD, Bench

NOTES = (
    "Voltage events are no longer cut at 100 ms.\n"
    "The box finds its time server again after a power failure."
)
OUTPUT = (
    f"Building release {NEW}.\nCopying box-configuration-daemon.\nCopying triggering.\n"
    "Installing the agent's Python packages.\n"
)

_NOW = time.time()
_UPDATED = Attempt(
    OLD,
    _NOW - 9e6,
    _NOW - 9e6 + 231,
    "updated",
    f"The box runs release {OLD}.",
    1,
    size=12_200_000,
    fetched=410_000,
)
_ILL = f"Release {NEW} is not healthy: a service was started again."
_RETURNED = Attempt(
    NEW,
    _NOW - 900,
    _NOW - 300,
    "returned",
    f"Release {NEW} failed, and the box runs release {OLD} again. {_ILL}",
    2,
)
_FAILED = evolve(
    _RETURNED,
    outcome="failed",
    reason="The download needs 79.2 MB free under /var/lib/opq/updater/archives, and there are "
    "41.3 MB. Make room, and try again.",
)
_LOOKED = {"last_check": _NOW - 600, "next_check": _NOW + 2700, "unsigned": False}
_OFFERED = {
    **_LOOKED,
    "available": NEW,
    "update_available": True,
    "size": 12_300_000,
    "notes": NOTES,
    "message": f"Release {NEW} is available.",
    "last_took": 231.0,
    "stage_since": _NOW - 20,
    "stage_took": {
        "downloading": 25.0,
        "verifying": 3.0,
        "unpacking": 9.0,
        "installing": 84.0,
        "rebooting": 41.0,
        "confirming": 69.0,
    },
}

#: The published status in each state, and the attempts before.
STATES: dict[str, tuple[dict[str, Any], list[Attempt]]] = {
    "up-to-date": (
        {**_LOOKED, "available": OLD, "message": "The box is up to date."},
        [_UPDATED],
    ),
    "not-checked": ({"message": _UPDATED.reason, "available": OLD}, [_UPDATED]),
    "updated": (
        {"message": f"The box runs release {OLD}.", "available": OLD, "next_check": _NOW + 900},
        [evolve(_UPDATED, started=_NOW - 300, ended=_NOW - 60)],
    ),
    "no-number": (
        {**_LOOKED, "box_id": 0, "message": "The update server has no update."},
        [
            evolve(_UPDATED, id=days, started=_NOW - days * 86400 - 200, ended=_NOW - days * 86400)
            for days in range(9, 1, -1)
        ],
    ),
    "checking": (
        {**_OFFERED, "stage": Stage.CHECKING, "message": Stage.CHECKING.message},
        [_UPDATED],
    ),
    "first-update": (
        {
            **_OFFERED,
            "stage": Stage.INSTALLING,
            "message": Stage.INSTALLING.message,
            "stage_took": {},
        },
        [],
    ),
    "available": (_OFFERED, [_UPDATED]),
    "branded": ({**_OFFERED, "name": "Harbour", "box_id": 41}, [_UPDATED]),
    "downloading": (
        {
            **_OFFERED,
            "stage": Stage.DOWNLOADING,
            "message": Stage.DOWNLOADING.message,
            "progress": Progress(7_400_000, 12_300_000, 812_000.0),
        },
        [_UPDATED],
    ),
    "downloading-changes": (
        {
            **_OFFERED,
            "stage": Stage.DOWNLOADING,
            "message": Stage.DOWNLOADING.message,
            "progress": Progress(50_000, 80_000, 203_000.0, here=12_220_000),
        },
        [_UPDATED],
    ),
    **{
        stage.value: ({**_OFFERED, "stage": stage, "message": stage.message}, [_UPDATED])
        for stage in (Stage.INSTALLING, Stage.REBOOTING, Stage.CONFIRMING)
    },
    "returning": (
        {
            **_OFFERED,
            "stage": Stage.ROLLING_BACK,
            "message": f"{Stage.ROLLING_BACK.message} {_ILL}",
        },
        [_UPDATED],
    ),
    "stopped": (
        {
            **_OFFERED,
            "held": True,
            "message": f"Release {NEW} comes to this box later: the operator has stopped it for "
            "now. Click on Update Box to have it nevertheless.",
        },
        [_UPDATED],
    ),
    "inhibited": (
        {
            **_OFFERED,
            "stage": Stage.UNPACKING,
            "message": "Waiting for a measurement to end; the update goes on by 05:12 at the "
            "latest.",
        },
        [_UPDATED],
    ),
    "stale": (
        {
            **_LOOKED,
            "trouble": "Stale.",
            "message": "Stale: the update server's signed metadata has expired (timestamp was "
            "good until 2026-11-01). Nothing new is installed until its operator renews it, or, "
            "where the box's clock is wrong, until that is right.",
        },
        [_UPDATED],
    ),
    "clock": (
        {
            **_LOOKED,
            "trouble": "Waiting for the clock.",
            "message": "Waiting for the clock: it shows 1970-01-01, and it is 2026-11-01 or later. "
            "It is set from the network; check that the box reaches a time server.",
        },
        [_UPDATED],
    ),
    "returned": (
        {**_OFFERED, "message": f"Release {NEW} is blocked: {_ILL}"},
        [_UPDATED, _RETURNED],
    ),
    "failed": (
        {**_OFFERED, "stage": Stage.FAILED, "message": _FAILED.reason},
        [_UPDATED, _FAILED],
    ),
    "unreachable": (
        {
            **_LOOKED,
            "trouble": "Cannot reach the update server.",
            "message": "Cannot reach the update server http://updates.example.org:8151: No route "
            "to host. Check the network, and updates_ep in the configuration, which "
            "opq-box setup --server URL sets.",
            "unsigned": True,
        },
        [],
    ),
}


_REPORTS = ReportRecord(
    "9f2c41d07be85a3690f1c2d4e6b7a8f9",
    SentReport(
        '{"format":1,"key":"9f2c41d07be85a3690f1c2d4e6b7a8f9","seq":41,"box":7,"agent":"0.2"}',
        _NOW - 590,
        "The update server has accepted it.",
    ),
)

#: The looks that a state has, if they are not the default.
_LOOKS = {"branded": PageConfig(title="Weather Station", colour="#c2410c")}


def serve(state: str, folder: Path) -> int:
    """Serve one state on a loopback port, and return the port."""
    changes, attempts = STATES[state]
    bench = Bench(folder)
    bench.journal.write(attempts=tuple(attempts))
    bench.start()
    bench.config.log.write_text(OUTPUT)
    last = attempts[-1] if attempts else None
    bench.board.publish(**{"name": "kitchen", "box_id": 7, "last_attempt": last, **changes})
    root = make_root(
        reactor,
        bench.updater,
        bench.board,
        [],
        CsrfCheck(),
        None,
        bench.config.log,
        time.time,
        read_branding(_LOOKS.get(state, PageConfig()), folder / "current"),
        _REPORTS,
    )
    return listen(root)


if __name__ == "__main__":
    os.environ.setdefault("TZ", "UTC")
    time.tzset()
    serve_all(STATES, serve)
