"""The fleet's options on the command line of the server, as values."""

from pathlib import Path
from typing import Literal

from attrs import frozen

#: How keys of boxes get into the database.
Enrolment = Literal["open", "token", "closed"]

#: What happens with a release that is new: with `off` it goes as it was signed until an operator
#: holds it; with `ask` it begins at the first step, and an operator widens it.
Rollouts = Literal["off", "ask"]


@frozen(kw_only=True)
class FleetSettings:
    """What `--fleet-db` and the options beside it say."""

    #: `sqlite:///PATH` or `postgresql://…`.
    url: str
    enrolment: Enrolment = "open"
    #: The secret that boxes have in their configuration; needed with `token`.
    token: str | None = None
    rollouts: Rollouts = "off"
    #: The Unix socket for `opq-fleet`.
    socket: Path = Path("/run/opq-update-server/fleet.sock")
