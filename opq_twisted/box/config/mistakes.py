"""Finds settings that the agent accepts, and that are probably a mistake."""

import os
from urllib.parse import urlsplit

from opq_twisted.box.config.settings import BoxConfig

#: In the sample configuration. Nobody can have this domain (RFC 2606, section 3).
_SAMPLE_DOMAIN = "example.org"


def find_warnings(config: BoxConfig) -> list[str]:
    """Return a sentence for each setting that will not do what its owner wants."""
    settings, found = config.updater, []
    if config.box_id == 0:
        found.append(
            "box_id is 0 or missing, and each box needs its own number: without it, all boxes get "
            "their turn in a rollout at the same time. Give this box one: opq-box setup --box-id "
            "auto"
        )
    host = urlsplit(config.updates_ep).hostname or ""
    if f".{host}".endswith(f".{_SAMPLE_DOMAIN}"):
        found.append(
            "updates_ep is still that of the sample configuration. Give the URL of your update "
            "server: opq-box setup --server URL"
        )
    # Even an unusable root forbids unsigned releases.
    if os.path.lexists(settings.trusted_root):
        return found
    if not settings.allow_unsigned:
        found.append(
            f"There is no trusted root {settings.trusted_root}, and allow_unsigned is false: the "
            "box installs no release. Put the root.json of the release key's holders there."
        )
    elif config.updates_ep.startswith("http:"):
        found.append(
            f"There is no trusted root {settings.trusted_root}, and updates_ep is not encrypted: "
            "everybody who controls the network can install a release of their own. Put the "
            "root.json of the release key's holders there."
        )
    return found
