"""The words for the reasons why boxes need somebody."""

from collections.abc import Mapping

#: The name of each in JSON, and the words after a number of boxes; the most urgent first.
NEEDS: Mapping[str, str] = {
    "silent": "silent since an installation began",
    "cloned": "with a key that two boxes use",
    "shared_number": "with a number that another box uses",
    "blocked": "refusing the release on offer",
    "stale_metadata": "without metadata that can be trusted",
    "not_seen": "not seen for 7 days",
    "new_key": "with a key that is less than a day old",
}
