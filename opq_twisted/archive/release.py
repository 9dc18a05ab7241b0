"""The value that identifies a release: its version, and the size and hashes of its archive."""

from collections.abc import Mapping

from attrs import Factory, frozen


@frozen
class Release:
    """One release, as it was signed, offered or received."""

    version: int
    #: The size of its archive in bytes; None if unknown.
    size: int | None = None
    #: In lower-case hexadecimal, keyed by the algorithm's name in `hashlib`.
    hashes: Mapping[str, str] = Factory(dict)

    @property
    def sha256(self) -> str | None:
        """In hexadecimal; None if unknown."""
        return self.hashes.get("sha256")
