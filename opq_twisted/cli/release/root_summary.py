"""Show the holder of a root key the root that he is about to sign."""

from collections.abc import Iterator
from datetime import UTC, datetime

from tuf.api.metadata import Root

from opq_twisted.signing.root_keys import ROLES


def describe(root: Root, before: Root | None, now: datetime) -> Iterator[str]:
    """
    Say all that a root says, and how it differs from another one, a line each.

    :param before: a root that the holder knows; None before the first one.
    """
    days = (root.expires - now.astimezone(UTC)).days
    yield (
        f"Root {root.version}, which expires on {root.expires:%Y-%m-%d} (in {days} days), "
        "names these keys:"
    )
    for role in ROLES:
        yield from _describe_role(role, root, before)
    if before is None:
        yield "There is no earlier root: compare each key with its holder."
    elif _content(root) == _content(before):
        yield f"They are the keys of root {before.version}: nothing else has changed."
    else:
        yield f"Root {before.version} was different where it says NEW, REMOVED or CHANGED."


def _describe_role(role: str, root: Root, before: Root | None) -> Iterator[str]:
    named = root.roles[role]
    old = named if before is None else before.roles[role]
    changed = ""
    if (named.threshold, len(named.keyids)) != (old.threshold, len(old.keyids)):
        changed = f"  CHANGED from {old.threshold} of {len(old.keyids)}"
    yield f"  {role:10} {named.threshold} of {len(named.keyids)}{changed}"
    for keyid in named.keyids:
        yield f"    {keyid}{'' if keyid in old.keyids else '  NEW'}"
    for keyid in old.keyids:
        if keyid not in named.keyids:
            yield f"    {keyid}  REMOVED"


def _content(root: Root) -> dict[str, tuple[int, set[str]]]:
    return {role: (named.threshold, set(named.keyids)) for role, named in root.roles.items()}
