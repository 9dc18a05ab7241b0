"""Finds the private keys of roles in a folder, by the ids that a root names."""

from collections.abc import Callable, Iterable
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Root

from opq_twisted import durable
from opq_twisted.errors import KeyUnusable, ReleaseFailed
from opq_twisted.release import keys

#: Where keys lie that no root names any more.
RETIRED = "retired"


class KeyRing:
    """The keys in one folder; whoever has the folder and the passphrase can sign with them."""

    def __init__(self, folder: Path, passphrase: Callable[[], bytes]) -> None:
        """:param passphrase: asked when the first key is opened or made."""
        self.folder = folder
        self._passphrase = passphrase
        self._opened: dict[Path, CryptoSigner] = {}

    def create(self, role: str, passphrase: Callable[[], bytes] | None = None) -> CryptoSigner:
        """
        Make a key for a role.

        :param passphrase: where it is another than that of the rest.
        :raises KeyUnusable: when its file cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KeyUnusable(
                f"The folder {self.folder} for the keys cannot be made: {error.strerror}."
            ) from None
        return keys.create(self.folder, role, (passphrase or self._passphrase)())

    def left_by(self, role: str, passphrase: Callable[[], bytes] | None = None) -> list[Key]:
        """
        Give the public keys of a role that lie here already.

        :raises KeyUnusable: when one cannot be opened.
        """
        paths = sorted(self.folder.glob(f"{role}-*.pem"))
        return [keys.load(path, (passphrase or self._passphrase)()).public_key for path in paths]

    def signers(self, root: Root, role: str) -> list[CryptoSigner]:
        """
        Open all keys of a role that lie here.

        :raises KeyUnusable: when one cannot be opened.
        """
        found = []
        for keyid in root.roles[role].keyids:
            path = self.folder / keys.file_name(role, root.keys[keyid])
            if path.exists():
                if path not in self._opened:
                    self._opened[path] = keys.load(path, self._passphrase())
                found.append(self._opened[path])
        return found

    def enough(self, root: Root, role: str) -> list[CryptoSigner]:
        """
        Open as many keys of a role as its signatures need.

        :raises ReleaseFailed: when fewer lie here.
        :raises KeyUnusable: when one cannot be opened.
        """
        threshold = root.roles[role].threshold
        found = self.signers(root, role)[:threshold]
        if len(found) < threshold:
            raise ReleaseFailed(
                f"{self.folder} does not hold the key of {role} that the root names "
                f"({', '.join(keyid[:12] for keyid in root.roles[role].keyids)}). Run this where "
                "it is, or name its folder with --keys-dir."
            )
        return found

    def forget(self, role: str, key: Key) -> None:
        """Remove a key that was made in vain."""
        (self.folder / keys.file_name(role, key)).unlink(missing_ok=True)

    def retire(self, roots: Iterable[Root]) -> None:
        """
        Move away the keys that an earlier root named, and the last one does not.

        :raises OSError: when they cannot be moved.
        """
        *earlier, current = roots
        names = {
            keys.file_name(role, root.keys[keyid])
            for root in earlier
            for role, name in root.roles.items()
            for keyid in name.keyids
            if keyid not in current.roles[role].keyids
        }
        for name in sorted(names):
            if (self.folder / name).exists():
                retired = self.folder / RETIRED
                retired.mkdir(mode=0o700, exist_ok=True)
                (self.folder / name).replace(retired / name)
                durable.sync_folder(self.folder)
