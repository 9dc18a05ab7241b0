"""The words of the page for the names in the JSON."""

from collections.abc import Mapping

#: What a box waits for.
WAITING: Mapping[str, str] = {
    "turn": "its turn in the rollout",
    "held": "a held rollout",
    "click": "a click on its page",
    "window": "its hours for updates",
    "measurement": "a measurement to end",
    "refused": "another release: it refuses this one",
    "clock": "a clock that is right",
    "stale": "metadata that has not expired",
    "untrusted": "metadata that it can trust",
    "server": "the update server",
    "other": "something that this server does not know",
}

#: What the server thinks of a key.
KEY_STATES: Mapping[str, str] = {
    "known": "known: trusted at its first report",
    "admitted": "admitted by an operator",
    "distrusted": "distrusted: its reports are turned away",
    "replaced": "replaced by another key of this box",
    "gone": "gone: silent for a long time",
}

#: How an attempt ended, or where it is.
OUTCOMES: Mapping[str, str] = {
    "updated": "updated",
    "returned": "went back",
    "failed": "failed",
    "silent": "silent",
    "unclear": "silent, maybe for the network",
    "under way": "under way",
}

#: What is written in the audit, as what somebody did.
ACTIONS: Mapping[str, str] = {
    "announce": "announced",
    "hold": "held",
    "resume": "resumed",
    "widen": "widened",
    "would-hold": "would have held",
    "ask": "asks about",
    "first-bad": "saw the first bad box of",
    "enrolment": "saw new keys",
    "fleet-silent": "found the fleet silent",
    "fleet-heard": "hears the fleet again",
    "admit": "admitted",
    "distrust": "distrusted",
    "replace": "replaced",
    "forget": "forgot",
}

#: The headings of pages about an error.
TITLES: Mapping[int, str] = {
    400: "Something is missing or wrong",
    401: "Who are you?",
    403: "You may not do this",
    404: "There is nothing here",
    405: "This is not possible here",
    409: "Nothing was changed",
    429: "Too many attempts",
    503: "The database is away",
}
