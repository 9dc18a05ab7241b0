"""A root on its way from holder to holder, in a file that gathers their signatures."""

import json
from pathlib import Path
from typing import Any

from attrs import frozen
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, RootVerificationResult

from opq_twisted.common import files
from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.key_folder import KeyFolder
from opq_twisted.trust.key_ids import require_own_ids
from opq_twisted.trust.tuf_client import max_size

_READABLE_BY_ALL = 0o644

#: Bytes: two roots as long as boxes read them, indented.
_MAX_SIZE = 4 << 20


@frozen
class Draft:
    """
    The next root, and the one that it follows, as both have to be signed for (TUF, 5.3.4).

    It brings the other root along, so that nobody who signs needs the updates directory.
    """

    path: Path
    root: Metadata[Root]
    #: None before the first root.
    previous: Metadata[Root] | None

    @classmethod
    def load(cls, path: Path) -> "Draft":
        """
        Read a draft.

        :raises ReleaseFailed: when it is none.
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
                f"{path} is no draft of a root: give the file that opq-release has left."
            ) from None
        expected = 1 if draft.previous is None else draft.previous.signed.version + 1
        if draft.version != expected:
            raise ReleaseFailed(f"{path} is a draft of root {draft.version}, not {expected}.")
        return draft

    @property
    def version(self) -> int:
        """The number of the root."""
        return self.root.signed.version

    @property
    def missing(self) -> int:
        """How many more keys have to sign: of the old root, or of the new one."""
        result = self._result()
        return max(result.first.missing, result.second.missing)

    @property
    def signed_by(self) -> list[str]:
        """The beginnings of the ids of those keys that have signed."""
        return sorted(keyid[:12] for keyid in self._result().signed)

    def sign(self, key_folder: KeyFolder) -> None:
        """
        Add the signatures of all keys of root in a folder; what is no signature is left out.

        :raises ReleaseFailed: when the draft lacks signatures, and no key of root is there.
        :raises KeyUnusable: when a key cannot be opened.
        """
        roots = [each.signed for each in (self.previous, self.root) if each is not None]
        signers = {
            signer.public_key.keyid: signer
            for root in roots
            for signer in key_folder.signers(root, Root.type)
        }
        if not signers and self.missing:
            raise key_folder.lacks(Root.type, *roots)
        for signer in signers.values():
            self.root.sign(signer, append=True)
        valid = self._result().signed
        for keyid in list(self.root.signatures):
            if keyid not in valid:
                del self.root.signatures[keyid]

    def save(self) -> None:
        """
        Write it, and return when it is on the disk.

        :raises ReleaseFailed: when another draft lies there that somebody else has signed.
        :raises OSError: when the disk is full or fails; what was there before is untouched then.
        """
        self._require_no_loss()
        parts = {
            "previous": None if self.previous is None else json.loads(self.previous.to_bytes()),
            "root": json.loads(self.root.to_bytes()),
        }
        files.write(self.path, json.dumps(parts, indent=1).encode(), _READABLE_BY_ALL)

    def _require_no_loss(self) -> None:
        try:
            other = Draft.load(self.path)
        except ReleaseFailed:
            return  # there is none
        others = sorted(set(other.signed_by) - set(self.signed_by))
        if others and other.previous == self.previous:
            raise ReleaseFailed(
                f"{self.path} has the signatures of others ({', '.join(others)}), and would be "
                "written over: go on with it by --append, or take it away."
            )

    def _result(self) -> RootVerificationResult:
        previous = None if self.previous is None else self.previous.signed
        return self.root.signed.get_root_verification_result(
            previous, self.root.signed_bytes, self.root.signatures
        )


class _NotToBeSigned(Exception):
    """A root is not what an honest holder makes; the text says why."""


def _parse(part: Any) -> Metadata[Root]:
    document = Metadata[Root].from_bytes(json.dumps(part).encode())
    if not isinstance(document.signed, Root):
        raise ValueError("it is no root")
    _require_whole(document.signed)
    try:
        require_own_ids(document.signed)
    except RepositoryError as error:
        raise _NotToBeSigned(error) from None
    return document


def _require_whole(root: Root) -> None:
    """Make sure that numbers are whole: no others can be signed (canonical JSON)."""
    numbers = [root.version, *(role.threshold for role in root.roles.values())]
    if any(type(number) is not int for number in numbers):
        raise ValueError("it has a number that is not whole")


def _require_shown(document: Metadata[Root]) -> None:
    """Make sure that a root says nothing but what is shown to those who sign it."""
    root = document.signed
    parts: tuple[Any, ...] = (root, *root.roles.values(), *root.keys.values())
    if any(part.unrecognized_fields for part in parts):
        raise _NotToBeSigned("its root says more than this version of opq-release understands")
    if set(root.keys) != {keyid for role in root.roles.values() for keyid in role.keyids}:
        raise _NotToBeSigned("its root has a key without a role, or a role without its key")
    if any(role.threshold > len(role.keyids) for role in root.roles.values()):
        raise _NotToBeSigned("its root asks a role for more signatures than it has keys")
    if root.consistent_snapshot is not True:
        raise _NotToBeSigned("its root lets metadata be replaced (consistent_snapshot)")
    size, most = len(document.to_bytes()), max_size("root.json")
    if size > most:
        raise _NotToBeSigned(f"its root has {size} bytes, and boxes read {most}")
