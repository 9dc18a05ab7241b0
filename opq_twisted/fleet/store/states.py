"""The states of a box's key, and of a rollout, as they are in the database."""

from enum import StrEnum


class BoxState(StrEnum):
    """What the server thinks of a key."""

    #: Trusted at its first use, or by the proof of the token.
    KNOWN = "known"
    #: An operator has named it.
    ADMITTED = "admitted"
    #: An operator has turned it away: its reports get 403.
    DISTRUSTED = "distrusted"
    #: Another key of the same box has taken its place.
    REPLACED = "replaced"
    #: Not seen for a long time.
    GONE = "gone"


#: The states of the keys that count as boxes of the fleet.
COUNTED = (BoxState.KNOWN, BoxState.ADMITTED)

#: Those whose attempts count: a box that was installed anew leaves its bad attempt with its old
#: key.
TRIED = (*COUNTED, BoxState.REPLACED)


class RolloutState(StrEnum):
    """Where a rollout is."""

    #: Boxes install it up to its share.
    BAKING = "baking"
    #: All boxes that the release key allows may install it.
    DONE = "done"
    #: No box installs it by itself.
    HELD = "held"
    #: The channel names another release.
    SUPERSEDED = "superseded"


class OutageKind(StrEnum):
    """Why the server did not hear its boxes."""

    #: No server was running, or none could use the database.
    SERVER = "server"
    #: More boxes than usual were silent at the same time.
    FLEET = "fleet"
