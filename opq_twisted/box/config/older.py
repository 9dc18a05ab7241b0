"""Translates the values of updates_ep and box_id that the older updater accepted."""

import re
from collections.abc import Mapping

# The older updater ran wget, which accepts a host without a scheme. A misspelt scheme, as in
# "http:/example.org", is not a host.
_HOST_ALONE = re.compile(
    r"(?!https?:)(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?(/\S*)?", re.ASCII | re.IGNORECASE
)


def translate(content: Mapping[str, object]) -> dict[str, object]:
    """
    Return the configuration with older values in the form that the agent reads.

    Any other value stays as it is, for its validator to refuse.
    """
    translated = dict(content)
    if isinstance(endpoint := content.get("updates_ep"), str):
        text = endpoint.strip()
        translated["updates_ep"] = f"http://{text}" if _HOST_ALONE.fullmatch(text) else text
    if "box_id" in content:
        translated["box_id"] = _whole_number(content["box_id"])
    return translated


def _whole_number(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value, re.ASCII):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
