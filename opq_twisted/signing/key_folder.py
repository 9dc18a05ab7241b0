"""The folder of private keys, with records of the last root and snapshot that they signed."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot

from opq_twisted.common import files
from opq_twisted.common.errors import KeyUnusable, ReleaseFailed
from opq_twisted.trust import keys
from opq_twisted.trust.key_ids import verify_key_ids
from opq_twisted.trust.metadata_files import max_size

#: The folder for keys that no root names any more.
RETIRED = "retired"

#: The file of the newest root that these keys have worked with; it is no secret.
TRUSTED_ROOT = "trusted-root.json"

#: The file of the version of the last snapshot that these keys have signed.
LAST_SNAPSHOT = "last-snapshot"

_MAX_DIGITS = 32

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

Passphrase = Callable[[], bytes]


@define(eq=False)
class KeyFolder:
    """
    Finds the private keys of roles by the ids in a root, and opens them with one passphrase.

    The methods raise `KeyUnusable` if a key cannot be opened, and `OSError` if the disk is full or
    fails.
    """

    folder: Path
    #: Returns the passphrase; called when the first key is opened or made.
    passphrase: Passphrase
    #: Called with a sentence if the file of an opened key could be safer.
    _advise: Callable[[str], object] = lambda _: None
    _opened: dict[Path, CryptoSigner] = field(init=False, factory=dict)
    #: The files that `retire` has moved.
    moved: list[str] = field(init=False, factory=list)

    def create(self, role: str, passphrase: Passphrase | None = None) -> Key:
        """
        Make a key for a role, and return its public key.

        :param passphrase: for this key, if it differs from that of the other keys.
        :raises KeyUnusable: if its file cannot be written.
        """
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(mode=0o700, parents=True)
                files.sync_folder(self.folder.parent)
        except OSError as error:
            raise KeyUnusable(
                f"The folder {self.folder} for the keys cannot be made: {error.strerror}."
            ) from None
        return keys.create(self.folder, role, (passphrase or self.passphrase)()).public_key

    def unused(
        self, role: str, roots: Sequence[Root], passphrase: Passphrase | None = None
    ) -> list[Key]:
        """Return the public keys of a role that were made, and that none of these roots names."""
        used = {keys.file_name(role, key) for root in roots for key in root.keys.values()}
        used |= {path.name for path in (self.folder / RETIRED).glob("*.pem")}
        return [
            keys.load(path, (passphrase or self.passphrase)()).public_key
            for path in sorted(self.folder.glob(f"{role}-*.pem"))
            if path.name not in used
        ]

    def signers(self, root: Root, role: str) -> list[CryptoSigner]:
        """Open all keys of a role that are in the folder."""
        named = [root.keys[keyid] for keyid in root.roles[role].keyids if keyid in root.keys]
        return [signer for key in named if (signer := self._signer(role, key)) is not None]

    def _signer(self, role: str, key: Key) -> CryptoSigner | None:
        path = self.folder / keys.file_name(role, key)
        if path not in self._opened:
            if not path.exists():
                return None
            signer = keys.load(path, self.passphrase())
            if signer.public_key.keyid != key.keyid:
                raise KeyUnusable(f"{path} does not hold the key that its name says: rename it.")
            self._opened[path] = signer
            if (advice := keys.advice(path)) is not None:
                self._advise(advice)
        return self._opened[path]

    def enough(self, root: Root, role: str) -> list[CryptoSigner]:
        """
        Open as many keys of a role as the root requires.

        :raises ReleaseFailed: if the folder holds fewer.
        """
        threshold = root.roles[role].threshold
        found = self.signers(root, role)[:threshold]
        if len(found) < threshold:
            raise self.error_about_missing(role, root)
        return found

    def error_about_missing(self, role: str, *roots: Root) -> ReleaseFailed:
        """Make the error that names the missing key files."""
        names = {
            keys.file_name(role, root.keys[keyid])
            for root in roots
            for keyid in root.roles[role].keyids
            if keyid in root.keys
        }
        return ReleaseFailed(
            f"{self.folder} does not hold the keys of {role} ({', '.join(sorted(names))}) that "
            "have to sign: run this where they are, or name their folder with --keys-dir."
        )

    def retire(self, roots: Sequence[Root]) -> None:
        """
        Move keys to `retired/` that an earlier root names, and the last one does not.

        Their names are added to `moved`.
        On a read-only medium they stay where they are, and are not used any more either.
        """
        *earlier, current = roots
        retired = self.folder / RETIRED
        names = {
            keys.file_name(role, root.keys[keyid])
            for root in earlier
            for role, name in root.roles.items()
            for keyid in name.keyids
            if keyid not in current.roles[role].keyids
        }
        try:
            for name in sorted(names):
                if (self.folder / name).exists():
                    retired.mkdir(mode=0o700, exist_ok=True)
                    (self.folder / name).replace(retired / name)
                    self.moved.append(name)
                    files.sync_folder(retired)
                    files.sync_folder(self.folder)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise

    def knows_a_root(self) -> bool:
        """Whether these keys have worked with a root already."""
        return (self.folder / TRUSTED_ROOT).exists()

    def trusted_root(self) -> Metadata[Root] | None:
        """
        Read the newest root that these keys have worked with; None if there is none yet.

        :raises ReleaseFailed: if it cannot be read.
        """
        path = self.folder / TRUSTED_ROOT
        try:
            trusted = Metadata[Root].from_bytes(files.read(path, max_size("root.json")))
            verify_key_ids(trusted.signed)
            return trusted
        except FileNotFoundError:
            return None
        except (OSError, RepositoryError):
            raise ReleaseFailed(
                f"{path} cannot be read: replace it with the root that you know to be yours."
            ) from None

    def verify_roots(self, roots: Sequence[Metadata[Root]]) -> None:
        """
        Make sure that a chain of roots contains the root that these keys worked with last.

        Other people may be able to write to the updates directory. If somebody could add a root
        there that names these keys and his own, these keys would sign his targets.

        The last root of the chain is remembered, except on a read-only medium.

        :raises ReleaseFailed: if the chain does not contain that root.
        """
        path = self.folder / TRUSTED_ROOT
        newest, known = roots[-1].signed.version, self.trusted_root()
        if known is not None:
            if not any(root.signed_bytes == known.signed_bytes for root in roots):
                raise ReleaseFailed(
                    f"The roots in the updates directory are not those of these keys: root "
                    f"{known.signed.version} is not the one in {path}. Restore the directory from "
                    "a copy."
                )
            if known.signed.version == newest:
                return
        self._store(path, roots[-1].to_bytes())

    def require_not_behind(self, snapshot: Snapshot) -> None:
        """
        Make sure that these keys have signed no later snapshot than this one.

        In an updates directory that was restored from an old copy, versions would be used twice,
        which boxes refuse, and withdrawn releases would be offered again.

        :raises ReleaseFailed: if they have.
        """
        path = self.folder / LAST_SNAPSHOT
        try:
            last = int(files.read(path, _MAX_DIGITS))
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            raise ReleaseFailed(
                f"{path} cannot be read: write into it the number of the last snapshot that you "
                "know."
            ) from None
        if snapshot.version < last:
            raise ReleaseFailed(
                f"The updates directory has snapshot {snapshot.version}, but {last} was signed "
                "with these keys: copy tuf/ from where the newest is. If that is lost, let boxes "
                "start again: opq-release rotate targets snapshot timestamp."
            )

    def store_version(self, snapshot: Snapshot) -> None:
        """Store the version of the last signed snapshot, except on a read-only medium."""
        self._store(self.folder / LAST_SNAPSHOT, f"{snapshot.version}\n".encode())

    def _store(self, path: Path, data: bytes) -> None:
        if not self.folder.is_dir():
            return
        try:
            files.write(path, data, files.READABLE_BY_ALL)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
