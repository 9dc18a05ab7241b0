"""What the page of the fleet shows in tests and pictures, as programs get it in JSON."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from opq_twisted.fleet.needs import NEEDS

#: 24 November 2026, 11:07 UTC.
NOW = 1_795_518_420.0
NEW, OLD, OLDER = 1795262403, 1794052803, 1792843203
_HOUR, _DAY = 3600.0, 86400.0

Content = dict[str, Any]


def _named(number: int) -> Mapping[str, Any]:
    return {"box_id": number, "key_id": f"{number:032x}"}


def assessment(**changes: Any) -> Content:
    """Return what the engine thinks of a rollout that goes well."""
    return {
        "well": 212,
        "bad": 3,
        "bad_by_reason": {"unhealthy-service": 2, "silent": 1},
        "under_way": 9,
        "unclear": 0,
        "boxes": 224,
        "low": 0.0046,
        "high": 0.0386,
        "holds_at": 9,
        "accepted": 0.01,
        "rejected": 0.05,
        "drawn": 231,
        "ended": 215,
        "before": {"release": OLD, "bad": 35, "boxes": 3987},
        "action": "wait",
        "sentence": "3 of 224 boxes are bad (unhealthy-service 2, silent 1), 212 well, 9 under "
        "way. The step is not over.",
        "remaining": 14 * _HOUR + 300,
        "next_bp": 2000,
        **changes,
    }


def channel(**changes: Any) -> Content:
    """Return a rollout that is at 5 %."""
    return {
        "channel": "stable",
        "release": NEW,
        "state": "baking",
        "bp": 500,
        "first_bp": 100,
        "ceiling_bp": 10_000,
        "critical": False,
        "announced_at": NOW - 34 * _HOUR,
        "since": NOW - 10 * _HOUR,
        "outcomes": [
            {"outcome": "returned", "reason": "unhealthy-service", "boxes": 2, "bad": True},
            {"outcome": "silent", "reason": "", "boxes": 1, "bad": True},
            {"outcome": "failed", "reason": "no-room", "boxes": 4, "bad": False},
            {"outcome": "failed", "reason": "download", "boxes": 1, "bad": False},
            {"outcome": "under way", "reason": "", "boxes": 9, "bad": False},
            {"outcome": "updated", "reason": "", "boxes": 212, "bad": False},
        ],
        "assessment": assessment(),
        "bad_boxes": {
            "unhealthy-service": [_named(7), _named(31)],
            "silent": [_named(90)],
        },
        "hold": None,
        "acknowledged_at": None,
        "sentence": None,
        "not_judged": 0,
        "silent_since": None,
        **changes,
    }


def held(**changes: Any) -> Content:
    """Return a rollout that the engine has held."""
    sentence = (
        "4 of 20 boxes are bad (unhealthy-service 3, silent 1), 11 well, 5 under way. After 20 "
        "boxes 4 bad ones are too many, if 1 % are normal."
    )
    return channel(
        state="held",
        bp=100,
        since=NOW - 2 * _HOUR,
        assessment=assessment(
            well=11,
            bad=4,
            under_way=5,
            boxes=20,
            bad_by_reason={"unhealthy-service": 3, "silent": 1},
            low=0.081,
            high=0.416,
            holds_at=4,
            action=None,
            sentence=None,
            remaining=None,
            next_bp=500,
        ),
        bad_boxes={
            "unhealthy-service": [_named(7), _named(31), _named(52)],
            "silent": [_named(90)],
        },
        hold={
            "at": NOW - 2 * _HOUR,
            "who": "engine",
            "change": "From baking at 1 % to held at 1 %.",
            "because": sentence,
        },
        **changes,
    )


def change(number: int, what: str, text: str, because: str, **changes: Any) -> Content:
    """Return a row of the audit."""
    return {
        "id": number,
        "at": NOW - (9 - number) * 5 * _HOUR,
        "who": "engine",
        "what": what,
        "channel": "stable",
        "release": NEW,
        "box": None,
        "key_id": None,
        "box_id": None,
        "change": text,
        "because": because,
        **changes,
    }


CHANGES = [
    change(8, "widen", "From baking at 1 % to baking at 5 %.", "1 of 46 boxes is bad, 45 well."),
    change(7, "first-bad", "Box 31 is the first bad one.", "It went back: unhealthy-service."),
    change(
        6,
        "admit",
        "Its state was known.",
        "Compared with the sticker",
        who="anna",
        channel=None,
        release=None,
        key_id="9f2c41d07be85a3690f1c2d4e6b7a8f9",
        box_id=4310,
        box=4310,
    ),
    change(
        5, "resume", "From held at 1 % to baking at 1 %.", "Two boxes had bad cards", who="anna"
    ),
    change(4, "hold", "From baking at 1 % to held at 1 %.", "I want to look at box 7", who="ben"),
]


def history(days: int = 30) -> Content:
    """Return the counts of 30 days, of which the last ones were counted."""
    first = int(NOW // _DAY) - 30
    counted = range(30 - days, 30)

    def series(value: Any) -> list[int | None]:
        return [int(value(day)) if day in counted else None for day in range(30)]

    new = series(lambda day: (0, 44, 170)[day - 27] if day >= 27 else 0)
    old = series(lambda day: min(4000, max(0, day - 12) * 520) - (new[day] or 0))
    older = series(lambda day: max(60, 4010 - max(0, day - 12) * 505))
    return {
        "days": [
            f"{datetime.fromtimestamp((first + each) * _DAY, UTC):%Y-%m-%d}" for each in range(30)
        ],
        "releases": [
            {"release": NEW, "boxes": new},
            {"release": OLD, "boxes": old},
            {"release": OLDER, "boxes": older},
        ],
        "others": series(lambda day: 160 - 2 * day),
        "outcomes": {
            "updated": series(
                lambda day: 500 - 7 * (day - 16) ** 2 if 12 < day < 21 else (day * 7) % 12
            ),
            "returned": series(lambda day: {14: 3, 15: 6, 16: 2, 29: 2}.get(day, 0)),
            "failed": series(lambda day: {15: 2, 22: 1}.get(day, 0)),
            "silent": series(lambda day: {16: 2, 29: 1}.get(day, 0)),
        },
    }


def overview(**changes: Any) -> Content:
    """Return the state of a fleet whose rollout goes well."""
    needs = {"silent": [90], "blocked": [7, 31, 52, 60], "shared_number": [12, 12]}
    needs |= {"new_key": [4310], "stale_metadata": [3, 5, 8, 13, 21], "not_seen": [1, 2, 4, 6, 9]}
    numbers = {"stale_metadata": 6, "not_seen": 12}
    return {
        "time": NOW,
        "rollouts": "auto",
        "channels": [channel()],
        "boxes": 4310,
        "releases": [
            {"release": NEW, "boxes": 212},
            {"release": OLD, "boxes": 3987},
            {"release": OLDER, "boxes": 74},
        ],
        "others": 24,
        "unknown": 13,
        "waiting": {"turn": 3781, "window": 12, "click": 9, "stale": 6},
        "waiting_now": 3902,
        "needs": {
            name: {
                "boxes": numbers.get(name, len(needs.get(name, []))),
                "some": needs.get(name, []),
            }
            for name in NEEDS
        },
        "changes": CHANGES,
        "held": False,
        "history": history(),
        "problem": None,
        **changes,
    }


def empty(**changes: Any) -> Content:
    """Return the state of a fleet without boxes and releases."""
    nothing = {
        "boxes": 0,
        "releases": [],
        "others": 0,
        "unknown": 0,
        "waiting": {},
        "waiting_now": 0,
    }
    needs = {name: {"boxes": 0, "some": []} for name in NEEDS}
    return overview(
        channels=[],
        changes=[],
        needs=needs,
        history={**history(0), "releases": [], "others": [None] * 30},
        **{**nothing, **changes},
    )


def key(number: int, **changes: Any) -> Content:
    """Return a key of a box."""
    return {
        "id": number,
        "key_id": f"{number * 0x9F2C41D07BE85A36:032x}"[-32:],
        "box_id": number,
        "state": "known",
        "channel": "stable",
        "release": OLD,
        "agent": "0.3.0",
        "arch": "aarch64",
        "python": "3.11",
        "install": "automatic",
        "waiting": "turn",
        "root": 3,
        "snapshot": 12,
        "last_good": OLD,
        "refused": [],
        "seq": 41,
        "first_seen": NOW - 90 * _DAY,
        "last_seen": NOW - 60 * (number % 170),
        "due": NOW + 3 * _HOUR,
        "cloned_at": None,
        "label": None,
        **changes,
    }


def attempt(number: int, **changes: Any) -> Content:
    """Return an attempt of a box that ended well."""
    received = NOW - number * 14 * _DAY
    return {
        "box": 7,
        "attempt_id": f"{number:032x}",
        "release": NEW - number * 1_209_600,
        "from_release": NEW - (number + 1) * 1_209_600,
        "began": int(received),
        "took": 412,
        "automatic": True,
        "stage": "idle",
        "outcome": "updated",
        "reason": None,
        "inferred": False,
        "tries": 1,
        "fetched": 141_500,
        "size": 12_300_000,
        "received": received,
        "ended_at": received + 412,
        **changes,
    }


def box(**changes: Any) -> Content:
    """Return a box that went back from the last release."""
    went_back = {"outcome": "returned", "reason": "unhealthy-service", "took": 980, "tries": 2}
    return {
        "time": NOW,
        "name": "7",
        "keys": [
            {**key(7, refused=[NEW], waiting="refused", label="Roof, north"), "replaced_by": None}
        ],
        "attempts": [
            attempt(0, received=NOW - 9 * _HOUR, **went_back),
            attempt(1, automatic=False),
            attempt(2, fetched=12_300_000, inferred=True),
            attempt(3),
        ],
        **changes,
    }


def boxes(**changes: Any) -> Content:
    """Return a page of a list of boxes."""
    rows = [key(number) for number in range(2, 26)]
    rows[5] = key(7, refused=[NEW], waiting="refused", label="Roof, north")
    rows[9] = key(11, release=NEW, waiting=None)
    rows[12] = key(14, cloned_at=NOW - _HOUR, state="admitted", release=NEW, waiting=None)
    rows[15] = key(17, box_id=0, release=None, agent=None, last_seen=None, waiting=None)
    names = ("channel", "release", "state", "waiting", "not_seen_for", "need")
    return {
        "time": NOW,
        "boxes": rows,
        "more": True,
        "after": None,
        "filter": dict.fromkeys(names) | {"channel": "stable"},
        **changes,
    }


_SHARES = [
    {"at": NOW - 34 * _HOUR, "held": False, "bp": 100},
    {"at": NOW - 25 * _HOUR, "held": True, "bp": 100},
    {"at": NOW - 20 * _HOUR, "held": False, "bp": 100},
    {"at": NOW - 10 * _HOUR, "held": False, "bp": 500},
]


def release(**changes: Any) -> Content:
    """Return a release that is rolled out."""
    return {
        "time": NOW,
        "rollouts": "auto",
        "release": NEW,
        "channels": [channel(shares=_SHARES)],
        "boxes": 212,
        "bad": [
            {
                **_named(7),
                "outcome": "returned",
                "reason": "unhealthy-service",
                "ended_at": NOW - 9000,
            },
            {
                **_named(31),
                "outcome": "returned",
                "reason": "unhealthy-service",
                "ended_at": NOW - 7e4,
            },
        ],
        "changes": [each for each in CHANGES if each["release"]],
        "held": False,
        **changes,
    }


def audit(**changes: Any) -> Content:
    """Return a page of the audit."""
    return {
        "time": NOW,
        "changes": CHANGES,
        "more": True,
        "before": None,
        "release": None,
        **changes,
    }


def form(**changes: Any) -> Content:
    """Return an order that was refused."""
    return {
        "time": NOW,
        "action": "widen",
        "fields": {"channel": "stable", "release": str(NEW), "to_bp": "2000", "back": "/fleet"},
        "because": "All boxes of the lab are well",
        "mistake": f"Release {NEW} in the channel stable is held: resume it first.",
        "code": 409,
        **changes,
    }


def new_box() -> Content:
    """Return two keys without a number, one of them before its first report."""
    unknown = dict.fromkeys(("channel", "release", "agent", "arch", "python", "install", "waiting"))
    unknown |= dict.fromkeys(("root", "snapshot", "last_good", "refused", "last_seen", "due"))
    replaced = {"state": "replaced", "replaced_by": "0f" * 16, "cloned_at": NOW - _HOUR}
    return box(
        keys=[
            {**key(8, box_id=0, state="admitted"), **unknown, "replaced_by": None},
            {**key(9, box_id=0), **replaced},
        ],
        attempts=[attempt(0, outcome=None, stage="installing", release=None, from_release=None)],
    )


def old_release() -> Content:
    """Return a release that nobody has tried."""
    quiet = channel(
        state="superseded", outcomes=[], assessment=None, bad_boxes={}, critical=True, shares=[]
    )
    return release(channels=[quiet], boxes=1, bad=[], changes=[])


def _waiting(sentence: str, **changes: Any) -> Content:
    told = {"sentence": sentence, "remaining": None}
    return channel(assessment=assessment(**{**told, **changes}))


#: Each state of the overview.
OVERVIEWS: Mapping[str, Content] = {
    "baking": overview(),
    "held": overview(channels=[held()], held=True),
    "asking": overview(
        channels=[
            _waiting(
                "7 of 224 boxes are bad (unhealthy-service 7), 208 well, 9 under way. That is 3 % "
                "or more, but not enough for a hold: somebody has to decide.",
                action="ask",
                bad=7,
                well=208,
                bad_by_reason={"unhealthy-service": 7},
                low=0.015,
                high=0.063,
            )
        ]
    ),
    "ready": overview(
        rollouts="ask",
        channels=[
            _waiting(
                "3 of 224 boxes are bad (unhealthy-service 2, silent 1), 212 well, 9 under way.",
                action="widen",
            )
        ],
    ),
    "observed": overview(
        rollouts="observe",
        channels=[
            _waiting(
                "16 of 224 boxes are bad (unhealthy-service 16), 199 well, 9 under way. After 224 "
                "boxes 9 bad ones are too many, if 1 % are normal.",
                action="hold",
                bad=16,
                well=199,
                bad_by_reason={"unhealthy-service": 16},
                low=0.045,
                high=0.113,
            ),
            channel(channel="beta"),
        ],
    ),
    "frozen": overview(
        channels=[
            {
                **_waiting(
                    "Many boxes that installed nothing are silent: the rollout waits for the "
                    "network."
                ),
                "silent_since": NOW - _HOUR,
            }
        ],
    ),
    "off": overview(
        rollouts="off",
        channels=[channel(assessment=None), channel(channel="beta", assessment=None, state="done")],
        others=0,
        unknown=0,
    ),
    "done": overview(
        channels=[
            channel(
                state="done",
                bp=10_000,
                assessment=assessment(action="nothing", remaining=None, next_bp=None, before=None),
            ),
            channel(channel="beta", state="done", bp=2000, ceiling_bp=2000, critical=True),
        ],
        waiting={},
        waiting_now=1,
    ),
    "begun": overview(
        channels=[
            channel(
                bp=100,
                outcomes=[],
                bad_boxes={},
                assessment=assessment(
                    well=0,
                    bad=0,
                    under_way=0,
                    boxes=0,
                    bad_by_reason={},
                    low=0.0,
                    high=1.0,
                    before=None,
                    next_bp=500,
                ),
            )
        ],
        history=history(0),
        changes=[],
        needs={name: {"boxes": 0, "some": []} for name in NEEDS},
    ),
    "empty": empty(),
}
