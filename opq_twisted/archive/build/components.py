"""The components of an update: their names, and what they must not have in common."""

import re
from collections.abc import Iterable
from pathlib import Path

from opq_twisted.archive.build.contents import Contents
from opq_twisted.archive.name import INSTALL_SCRIPT, VERIFY_SCRIPT
from opq_twisted.common.errors import BuildFailed

AGENT = "box-configuration-daemon"
REQUIREMENTS = "requirements.txt"
TRUSTED_ROOT = "root.json"
WHEELS = "wheels"
#: The Python environment that a box makes in a release's folder, and in that of a component.
ENVIRONMENT = "venv"

#: No name begins with a dot or a hyphen: install_update.sh has hidden files of its own beside the
#: components, and a program would take the name for an option.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: The other names in an update, and in a release's folder on a box.
_TAKEN = ("VERSION", INSTALL_SCRIPT, VERIFY_SCRIPT, TRUSTED_ROOT, WHEELS, ENVIRONMENT)


def component_folders(options: Iterable[str]) -> dict[str, Path]:
    """
    Parse `NAME=DIR` for each component.

    :raises BuildFailed: if one is not like that, or a name is not possible or is given twice.
    """
    folders: dict[str, Path] = {}
    for option in options:
        name, _, folder = option.partition("=")
        if not name or not folder:
            raise BuildFailed(
                f"--component {option} is not NAME=DIR: write it as in --component mysensor=DIR."
            )
        _check_name(name, folders)
        folders[name] = Path(folder)
    return folders


def _check_name(name: str, others: Iterable[str]) -> None:
    # .whl: the wheels of a component are in a folder with its name, beside the agent's wheels.
    if not _NAME.fullmatch(name) or name.casefold().endswith(".whl"):
        raise BuildFailed(
            f"A component cannot have the name {name!r}: choose up to 64 letters, digits and . - _ "
            "that begin with a letter or digit and do not end with .whl."
        )
    if name.casefold() in map(str.casefold, _TAKEN):
        raise BuildFailed(
            f"A component cannot have the name {name}, because an update or a box uses it itself: "
            "choose another one."
        )
    for other in others:
        if name == other:
            raise BuildFailed(f"--component {name} is given twice: leave one out.")
        # An SD card with FAT would take them for one.
        if name.casefold() == other.casefold():
            raise BuildFailed(
                f"The components {other} and {name} differ only in upper and lower case: rename "
                "one of them."
            )


def check_components(contents: Contents) -> None:
    """
    Check what the box makes of the components' folders.

    :raises BuildFailed: if two components have a unit of the same name, of which a box would have
        only one, or if a component's folder contains what the box makes there.
    """
    owners: dict[str, str] = {}
    for path, file in contents.items():
        match path.split("/"):
            case [component, "systemd", unit] if file and unit.endswith(".service"):
                owner = owners.setdefault(unit, component)
                if owner != component:
                    raise BuildFailed(
                        f"The components {owner} and {component} both have the unit {unit}: rename "
                        "one of them."
                    )
            case [component, name] if name == ENVIRONMENT and component != AGENT:
                if f"{component}/{REQUIREMENTS}" in contents:
                    raise BuildFailed(
                        f"{path} is where a box makes the environment for the packages in "
                        f"{component}/{REQUIREMENTS}: remove it, or give it another name."
                    )
