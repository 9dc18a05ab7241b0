"""The problems of boxes that need a person, as words for `opq-fleet` and the page."""

from collections.abc import Mapping

#: By the name in JSON, the words that follow a number of boxes; the most urgent problem first.
NEEDS: Mapping[str, str] = {
    "silent": "silent since an installation began",
    "cloned": "with a key that two boxes use",
    "shared_number": "with a number that another box uses",
    "blocked": "blocking the offered release",
    "stale_metadata": "without metadata that can be trusted",
    "not_seen": "not seen for 7 days",
    "new_key": "with a key that is less than a day old",
}
