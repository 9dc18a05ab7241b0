"""A draft of a root: a file that collects the signatures of the holders, who check it first."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import frozen
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, RootVerificationResult

from opq_twisted.common import files
from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.key_folder import TRUSTED_ROOT, KeyFolder
from opq_twisted.signing.signer import LIFETIME
from opq_twisted.trust.key_ids import verify_key_ids
from opq_twisted.trust.metadata_files import max_size

#: Bytes: two indented roots of the size that boxes read.
_MAX_SIZE = 4 << 20


@frozen
class Draft:
    """
    The next root, and the previous one, whose keys have to sign it too (TUF specification, 5.3.4).

    It contains the previous root, so that a holder can sign it without the updates directory.
    """

    path: Path
    root: Metadata[Root]
    #: None if `root` is the first one.
    previous: Metadata[Root] | None

    @classmethod
    def load(cls, path: Path) -> "Draft":
        """
        Read a draft.

        :raises ReleaseFailed: if the file is not a draft, or must not be signed.
        """
        try:
            parts = json.loads(files.read(path, _MAX_SIZE))
            previous = parts["previous"]
            draft = cls(path, _parse(parts["root"]), None if previous is None else _parse(previous))
            _require_shown(draft.root)
        except OSError as error:
            raise ReleaseFailed(f"The draft {path} cannot be read: {error.strerror}.") from None
        except _NotToBeSigned as reason:
            raise ReleaseFailed(
                f"The draft {path} is not to be signed: {reason}. Ask its sender, and begin again."
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError, RepositoryError):
            raise ReleaseFailed(
                f"{path} is no draft of a root: give the file that opq-release has written."
            ) from None
        expected = 1 if draft.previous is None else draft.previous.signed.version + 1
        if draft.version != expected:
            raise ReleaseFailed(f"{path} is a draft of root {draft.version}, not {expected}.")
        return draft

    @property
    def version(self) -> int:
        """The version of the root."""
        return self.root.signed.version

    @property
    def missing(self) -> int:
        """How many more keys have to sign: those of the previous root, or those of the new one."""
        result = self._result()
        return max(result.first.missing, result.second.missing)

    @property
    def signed_by(self) -> list[str]:
        """The beginnings of the ids of the keys that have signed."""
        return sorted(keyid[:12] for keyid in self._result().signed)

    @property
    def may_sign(self) -> list[str]:
        """The beginnings of the ids of the keys whose signatures are still needed."""
        result = self._result()
        return sorted(
            {
                keyid[:12]
                for part in (result.first, result.second)
                if part.missing
                for keyid in part.unsigned
            }
        )

    def sign(self, key_folder: KeyFolder) -> None:
        """
        Sign with all root keys in a folder, and remove invalid signatures.

        :raises ReleaseFailed: if the draft lacks signatures, and the folder holds no root key.
        :raises KeyUnusable: if a key cannot be opened.
        """
        roots = [each.signed for each in (self.previous, self.root) if each is not None]
        signers = {
            signer.public_key.keyid: signer
            for root in roots
            for signer in key_folder.signers(root, Root.type)
        }
        if not signers and self.missing:
            raise key_folder.error_about_missing(Root.type, *roots)
        for signer in signers.values():
            self.root.sign(signer, append=True)
        valid = self._result().signed
        for keyid in list(self.root.signatures):
            if keyid not in valid:
                del self.root.signatures[keyid]

    def save(self) -> None:
        """
        Write the file, and return when it is on the disk.

        :raises ReleaseFailed: if another draft with other holders' signatures would be lost.
        :raises OSError: if the disk is full or fails; the old file is untouched then.
        """
        self._require_no_loss()
        parts = {
            "previous": None if self.previous is None else json.loads(self.previous.to_bytes()),
            "root": json.loads(self.root.to_bytes()),
        }
        files.write(self.path, json.dumps(parts, indent=1).encode(), files.READABLE_BY_ALL)

    def _require_no_loss(self) -> None:
        try:
            other = Draft.load(self.path)
        except ReleaseFailed:
            return  # there is no other draft
        others = sorted(set(other.signed_by) - set(self.signed_by))
        if others and other.previous == self.previous:
            raise ReleaseFailed(
                f"{self.path} has the signatures of others ({', '.join(others)}), and would be "
                "overwritten: continue with it by --append, or remove it."
            )

    def _result(self) -> RootVerificationResult:
        previous = None if self.previous is None else self.previous.signed
        return self.root.signed.get_root_verification_result(
            previous, self.root.signed_bytes, self.root.signatures
        )


def check_draft(draft: Draft, key_folder: KeyFolder, now: datetime) -> None:
    """
    Check a draft as far as a holder without the updates directory can.

    :raises ReleaseFailed: if it does not follow the root that these keys know, or would be valid
        for too long.
    """
    require_usual_life(draft, now)
    require_agreement(draft, key_folder)


def require_usual_life(draft: Draft, now: datetime) -> None:
    """Make sure that a root expires in time: a stolen key must be worthless some day."""
    expires = draft.root.signed.expires
    if expires > now.astimezone(UTC) + timedelta(days=2 * LIFETIME):
        raise ReleaseFailed(
            f"The draft {draft.path} would be good until {expires:%Y-%m-%d}, and roots are "
            f"made for {LIFETIME} days: set this machine's clock, or ask its sender, and begin "
            "again."
        )


def require_agreement(draft: Draft, key_folder: KeyFolder) -> None:
    """Make sure that a draft does not contradict the root that these keys know."""
    known, previous = key_folder.trusted_root(), draft.previous
    if known is None:
        return
    follows = previous is not None and (
        previous.signed_bytes == known.signed_bytes
        if previous.signed.version == known.signed.version
        else previous.signed.version > known.signed.version
    )
    if not follows:
        raise ReleaseFailed(
            f"The draft {draft.path} does not follow root {known.signed.version} in "
            f"{key_folder.folder / TRUSTED_ROOT}, which is yours: ask its sender, and "
            "begin again."
        )


class _NotToBeSigned(Exception):
    """A root is not one that an honest holder would make; the text says why."""


def _parse(part: Any) -> Metadata[Root]:
    document = Metadata[Root].from_bytes(json.dumps(part).encode())
    if not isinstance(document.signed, Root):
        raise ValueError("it is no root")
    _require_whole(document.signed)
    try:
        verify_key_ids(document.signed)
    except RepositoryError as error:
        raise _NotToBeSigned(error) from None
    return document


def _require_whole(root: Root) -> None:
    """Make sure that numbers are whole: canonical JSON has no others to sign."""
    numbers = [root.version, *(role.threshold for role in root.roles.values())]
    if any(type(number) is not int for number in numbers):
        raise ValueError("it has a number that is not whole")


def _require_shown(document: Metadata[Root]) -> None:
    """Make sure that a root contains only what holders see before they sign it."""
    root = document.signed
    parts: tuple[Any, ...] = (root, *root.roles.values(), *root.keys.values())
    if any(part.unrecognized_fields for part in parts):
        raise _NotToBeSigned(
            "its root has fields that this version of opq-release does not understand"
        )
    if set(root.keys) != {keyid for role in root.roles.values() for keyid in role.keyids}:
        raise _NotToBeSigned("its root has a key without a role, or a role without its key")
    if any(role.threshold > len(role.keyids) for role in root.roles.values()):
        raise _NotToBeSigned("its root asks a role for more signatures than it has keys")
    if root.consistent_snapshot is not True:
        raise _NotToBeSigned("its root lets metadata be replaced (consistent_snapshot)")
    size, limit = len(document.to_bytes()), max_size("root.json")
    if size > limit:
        raise _NotToBeSigned(f"its root has {size} bytes, and boxes read {limit}")
