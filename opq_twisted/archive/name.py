"""The names of an update, `opq-box-update-VERSION.tar.bz2`, and of the scripts in it."""

import re
from dataclasses import dataclass

from opq_twisted.common.errors import InvalidName

#: Installs the files beside it.
INSTALL_SCRIPT = "install_update.sh"
#: Exits with 0 if the running release is healthy; it is optional.
VERIFY_SCRIPT = "verify_update.sh"
#: Optional in a component: does the installation steps besides copying its folder.
COMPONENT_SCRIPT = "install.sh"

#: The top-level folder of an archive. Its name has no version, so that a file that does not change
#: has the same header in each archive. Older boxes' script enters the folder `opq-box-update-*`.
TOP_FOLDER = "opq-box-update-files"

#: Fifteen digits hold every timestamp for 30 million years, and every JSON reader keeps them exact.
_VERSION = "[1-9][0-9]{0,14}"
_TEMPLATE = re.compile(f"opq-box-update-({_VERSION})\\.tar\\.bz2", re.ASCII)


# A dataclass and not attrs: the builder runs on a Python without packages.
@dataclass(frozen=True, order=True, slots=True)
class UpdateName:
    """An update's identity: the time it was built, in seconds since the epoch."""

    version: int

    @classmethod
    def parse(cls, text: str) -> "UpdateName":
        """
        Read a file name.

        One version has exactly one name: leading zeros are refused.

        :raises InvalidName: if the text does not follow the template.
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
        """The top-level folder with the version: agents up to 0.2.0 accept no other."""
        return f"opq-box-update-{self.version}"

    def __str__(self) -> str:
        return f"{self.folder}.tar.bz2"


def parse_version(text: str) -> int:
    """
    Parse a version, as `VERSION` files and the server's `/version` contain it.

    :raises InvalidName: if the text is anything else.
    """
    stripped = text.strip()
    if not re.fullmatch(_VERSION, stripped, re.ASCII):
        raise InvalidName(f"{text[:40]!r} is not a version: it must be seconds since the epoch.")
    return int(stripped)
