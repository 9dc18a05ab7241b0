"""What an update is called: `opq-box-update-VERSION.tar.bz2`, by version; and its scripts."""

import re
from dataclasses import dataclass

from opq_twisted.common.errors import InvalidName

#: Installs what lies beside it.
INSTALL_SCRIPT = "install_update.sh"
#: Ends with 0 when the release that runs is healthy; an update need not have it.
VERIFY_SCRIPT = "verify_update.sh"
#: In a component: does what copying its folder cannot do.
COMPONENT_SCRIPT = "install.sh"

#: Fifteen digits hold every timestamp for 30 million years, and every JSON reader keeps them exact.
_VERSION = "[1-9][0-9]{0,14}"
_TEMPLATE = re.compile(f"opq-box-update-({_VERSION})\\.tar\\.bz2", re.ASCII)


# A dataclass and not attrs: the builder runs on a bare Python, without anything installed.
@dataclass(frozen=True, order=True, slots=True)
class UpdateName:
    """An update's identity: the time it was built, in seconds since the epoch."""

    version: int

    @classmethod
    def parse(cls, text: str) -> "UpdateName":
        """
        Read a file name.

        One version has exactly one name: leading zeros are refused.

        :raises InvalidName: when the text does not follow the template.
        """
        match = _TEMPLATE.fullmatch(text)
        if match is None:
            raise InvalidName(
                f"{text!r} is not an update: the name must be opq-box-update-VERSION.tar.bz2, "
                "VERSION being seconds since the epoch."
            )
        return cls(int(match[1]))

    @property
    def folder(self) -> str:
        """The archive's single top-level folder: `opq-box-update-VERSION`."""
        return f"opq-box-update-{self.version}"

    def __str__(self) -> str:
        return f"{self.folder}.tar.bz2"


def parse_version(text: str) -> int:
    """
    Read a version as `VERSION` files and `/version` of the server write it.

    :raises InvalidName: when it is anything else.
    """
    stripped = text.strip()
    if not re.fullmatch(_VERSION, stripped, re.ASCII):
        raise InvalidName(f"{text[:40]!r} is not a version: it must be seconds since the epoch.")
    return int(stripped)
