"""The states of keys and rollouts, and the kinds of outages, as they are in the database."""

from enum import StrEnum


class BoxState(StrEnum):
    """Whether the server trusts a key."""

    #: Trusted at its first use, or by the proof of the token.
    KNOWN = "known"
    #: An operator has admitted it.
    ADMITTED = "admitted"
    #: An operator distrusts it: its reports get 403.
    DISTRUSTED = "distrusted"
    #: Another key of the same box has replaced it.
    REPLACED = "replaced"
    #: It has sent no report for a long time.
    GONE = "gone"


#: The states of the keys that count as boxes of the fleet.
COUNTED = (BoxState.KNOWN, BoxState.ADMITTED)

#: The states of the keys whose attempts count. A replaced key is one of them: a box that was
#: installed again has a new key, and its bad attempt is in the row of its old one.
TRIED = (*COUNTED, BoxState.REPLACED)


class RolloutState(StrEnum):
    """The state of a rollout."""

    #: Boxes install it up to its share.
    BAKING = "baking"
    #: All boxes that the release key allows may install it.
    DONE = "done"
    #: No box installs it by itself.
    HELD = "held"
    #: The channel names another release.
    SUPERSEDED = "superseded"


class OutageKind(StrEnum):
    """The reason why the server could not hear its boxes."""

    #: No server was running, or none could use the database.
    SERVER = "server"
    #: More boxes than usual were silent at the same time.
    FLEET = "fleet"
