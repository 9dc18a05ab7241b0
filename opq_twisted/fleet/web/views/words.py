"""The words on the page for the names in the JSON."""

from collections.abc import Mapping

#: The reasons to wait; each follows "waits for".
WAITING: Mapping[str, str] = {
    "turn": "its turn in the rollout",
    "held": "a held rollout",
    "click": "a click on its page",
    "window": "its hours for updates",
    "measurement": "the end of a measurement",
    "refused": "another release: it has blocked this one",
    "clock": "the right time",
    "stale": "metadata that has not expired",
    "untrusted": "metadata that it can trust",
    "server": "the update server",
    "other": "a reason that this server does not know",
}

#: The states of a key.
KEY_STATES: Mapping[str, str] = {
    "known": "known: trusted at its first report",
    "admitted": "admitted by an operator",
    "distrusted": "distrusted: its reports are refused",
    "replaced": "replaced by another key of this box",
    "gone": "gone: silent for a long time",
}

#: The results of an attempt, and its state before that.
OUTCOMES: Mapping[str, str] = {
    "updated": "updated",
    "returned": "went back",
    "failed": "failed",
    "silent": "silent",
    "unclear": "silent, maybe because of the network",
    "under way": "under way",
}

#: The actions in the audit; each follows a name.
ACTIONS: Mapping[str, str] = {
    "announce": "announced",
    "hold": "held",
    "resume": "resumed",
    "widen": "widened",
    "would-hold": "would have held",
    "ask": "asked for a decision about",
    "first-bad": "saw the first bad box of",
    "enrolment": "saw new keys",
    "fleet-silent": "found the fleet silent",
    "fleet-heard": "heard the fleet again",
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
    503: "The database cannot be used",
}
