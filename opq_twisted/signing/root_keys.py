"""Makes roots: the first one, and those that renew it or give roles other keys."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC

from attrs import frozen
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.dry_run import try_metadata_sets, try_roots
from opq_twisted.signing.key_folder import Passphrase
from opq_twisted.signing.root_draft import Draft, require_agreement, require_usual_life
from opq_twisted.signing.signer import RepositorySigner
from opq_twisted.trust.repository_reader import Document, MetadataSet, is_signed

#: The roles in the order in which their keys are made.
ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)

_MAX_ROOT_KEYS = 16


@frozen
class RootSigner(RepositorySigner):
    """
    Signs roots with the root keys in one folder.

    Each method returns a draft if the keys in the folder are too few to sign the root. Another
    holder appends signatures to the draft. Each method raises `KeyUnusable` if a key cannot be made
    or opened, and `OSError` if the disk is full or fails.
    """

    def init(
        self,
        root_keys: int,
        root_threshold: int,
        public: Mapping[str, Sequence[Key]],
        timestamp_passphrase: Passphrase | None = None,
    ) -> Draft | None:
        """
        Make the missing keys, and the first root, targets and snapshot.

        After an interruption, the next run uses the keys that were made before.

        :param public: keys that were made elsewhere, by role.
        :raises ReleaseFailed: if there is a root already, or the numbers make no sense.
        """
        if not 1 <= root_threshold <= root_keys <= _MAX_ROOT_KEYS:
            raise ReleaseFailed(
                f"{root_threshold} of {root_keys} root keys make no sense: give at most "
                f"{_MAX_ROOT_KEYS} keys, and a threshold from 1 to their number."
            )
        with self.repository.locked():
            if self.repository.numbers(Root.type):
                raise ReleaseFailed(
                    f"{self.repository.folder} has a root already: boxes that trust it could not "
                    "follow another one. Use rotate to change keys."
                )
            self._require_new_keys()
            root = Root(1, expires=self.expires())
            for role in ROLES:
                passphrase = timestamp_passphrase if role == Timestamp.type else None
                needed = root_keys if role == Root.type else 1
                for key in self._keys_for(role, needed, public.get(role, ()), passphrase):
                    _require_unused(key, role, root)
                    root.add_key(key, role)
            root.roles[Root.type].threshold = root_threshold
            return self._finish(self._draft(root, None))

    def _require_new_keys(self) -> None:
        if self.key_folder.knows_a_root():
            raise ReleaseFailed(
                f"The keys in {self.key_folder.folder} have a root already: name another folder "
                "with --keys-dir, or restore the updates directory from a copy."
            )

    def _keys_for(
        self, role: str, needed: int, public: Sequence[Key], passphrase: Passphrase | None
    ) -> list[Key]:
        unused = self.key_folder.unused(role, [], passphrase)
        found = {key.keyid: key for key in [*public, *unused]}
        if len(found) > needed:
            raise ReleaseFailed(
                f"There are {len(found)} keys for {role} in {self.key_folder.folder} and on the "
                f"command line, and {needed} are needed: take the others away."
            )
        while len(found) < needed:
            key = self.key_folder.create(role, passphrase)
            found[key.keyid] = key
        return list(found.values())

    def renew_root(self) -> Draft | None:
        """
        Make the next root, with the same keys, for a year from now.

        :raises ReleaseFailed: if no root key is here, or boxes would refuse the result.
        """
        with self.repository.locked():
            current = self.roots()[-1]
            return self._finish(self._draft(self._next_root(current), current))

    def rotate(
        self,
        roles: Sequence[str],
        public: Mapping[str, Key],
        replaced: str | None = None,
        timestamp_passphrase: Passphrase | None = None,
    ) -> Draft | None:
        """
        Give roles other keys in the next root, and sign the current metadata with the new keys.

        After an interruption, the next run uses the keys that were made before.

        :param public: keys that were made elsewhere, by role.
        :param replaced: the beginning of the id of the root key that is replaced.
        :raises ReleaseFailed: if a key is missing, or boxes would refuse the result.
        """
        _require_named(roles, public, replaced)
        with self.repository.locked():
            roots = self.roots()
            current = roots[-1]
            self.repository.current(current.signed)
            if not self.key_folder.signers(current.signed, Root.type):
                raise self.key_folder.error_about_missing(Root.type, current.signed)
            root, used = self._next_root(current), [each.signed for each in roots]
            revoked = {role: _revoked_keys(root, role, replaced) for role in roles}
            for role, keyids in revoked.items():
                passphrase = timestamp_passphrase if role == Timestamp.type else None
                key = public.get(role) or self._new_key(role, used, passphrase)
                if any(key.keyid in each.keys for each in used):
                    raise ReleaseFailed(
                        f"The key {key.keyid[:12]} was used before: make another one for {role}."
                    )
                _require_unused(key, role, root)
                for keyid in keyids:
                    root.revoke_key(keyid, role)
                root.add_key(key, role)
            return self._finish(self._draft(root, current))

    def _new_key(self, role: str, used: Sequence[Root], passphrase: Passphrase | None) -> Key:
        left = self.key_folder.unused(role, used, passphrase)
        return left[0] if left else self.key_folder.create(role, passphrase)

    def append(self, draft: Draft) -> Draft | None:
        """
        Sign a draft with the root keys in the folder, and place the root if it is complete.

        :returns: the draft while it lacks signatures, or while it cannot be placed from here.
        :raises ReleaseFailed: if it does not follow the root that is known here, or boxes would
            refuse it.
        """
        require_usual_life(draft, self.now())
        if not self.repository.updates.is_dir():
            # On another holder's machine there is only the root that these keys know.
            require_agreement(draft, self.key_folder)
            draft.sign(self.key_folder)
            draft.save()
            return draft
        with self.repository.locked():
            roots = self.roots() if self.repository.numbers(Root.type) else []
            newest = roots[-1].signed_bytes if roots else None
            if not roots:
                self._require_new_keys()
            if newest == draft.root.signed_bytes:
                # An earlier run was interrupted when only this was left to do.
                self.key_folder.retire([each.signed for each in roots])
            elif newest != (draft.previous and draft.previous.signed_bytes):
                raise ReleaseFailed(
                    f"The draft {draft.path} is root {draft.version}, which does not follow the "
                    f"root in {self.repository.folder}: begin again."
                )
            elif self._finish(draft) is not None:
                return draft
            # A draft that stays does no harm: if it is appended again, its root is in place.
            with suppress(OSError):
                draft.path.unlink()
            return None

    def _draft(self, root: Root, current: Metadata[Root] | None) -> Draft:
        path = self.key_folder.folder / f"root-{root.version}.draft.json"
        return Draft(path, Metadata(root), current)

    def _next_root(self, current: Metadata[Root]) -> Root:
        # Parsed from bytes, so that the copy shares nothing with the current root.
        root = Metadata[Root].from_bytes(current.to_bytes()).signed
        root.version += 1
        root.expires = self.expires()
        return root

    def _finish(self, draft: Draft) -> Draft | None:
        """Sign a root and place it, or save it as a draft if the keys here are too few."""
        draft.sign(self.key_folder)
        root = draft.root.signed
        before = None if draft.previous is None else self.repository.current(draft.previous.signed)
        if before is not None:
            self.require_clock(before.targets.signed.targets)
        is_accepted = before is not None and all(
            is_signed(root, each.metadata) for each in (before.targets, before.snapshot)
        )
        roles_to_sign = [] if is_accepted else [Targets.type, Snapshot.type]
        if draft.missing or not all(self._can_sign(root, role) for role in roles_to_sign):
            draft.save()
            return draft
        if root.is_expired(self.now().astimezone(UTC)):
            raise ReleaseFailed(f"The draft {draft.path} has expired: begin again.")
        self._place_root(draft.root, before, not is_accepted)
        return None

    def _can_sign(self, root: Root, role: str) -> bool:
        return len(self.key_folder.signers(root, role)) >= root.roles[role].threshold

    def _place_root(
        self, root: Metadata[Root], before: MetadataSet | None, sign_again: bool
    ) -> None:
        """Place a root; a metadata set that it does not accept is signed again and placed first."""
        roots = [*(self.repository.roots() if before else []), root]
        try_roots(roots)
        after = None
        if sign_again:
            targets = before.targets.signed.targets if before else {}
            after = self.sign(root.signed, targets, before)
            try_metadata_sets(*([before] if before else []), after)
            # The server announces the snapshot only when the new root is there.
            self.repository.place(after.targets, after.snapshot)
        self.repository.place(Document.of(root))
        self.key_folder.verify_roots(roots)
        if after is not None:
            self.key_folder.store_version(after.snapshot.signed)
        self.key_folder.retire([each.signed for each in roots])


def _require_named(roles: Sequence[str], public: Mapping[str, Key], replaced: str | None) -> None:
    """Make sure that every option is for a role that gets another key."""
    for role in public:
        if role not in roles:
            raise ReleaseFailed(
                f"There is a --public-key for {role}, which is not to have another key: name it "
                "among the roles, too."
            )
    if replaced is not None and Root.type not in roles:
        raise ReleaseFailed("--replace is for a key of root: name root among the roles.")


def _require_unused(key: Key, role: str, root: Root) -> None:
    """Make sure that a key has one role, so that its thief gets no other role."""
    if key.keyid in root.keys:
        raise ReleaseFailed(
            f"The key {key.keyid[:12]} has another role already: give {role} a different key."
        )


def _revoked_keys(root: Root, role: str, replaced: str | None) -> list[str]:
    """Return the ids of the keys that a role loses: one of the root's, or all of another's."""
    keyids = list(root.roles[role].keyids)
    if role != Root.type or (replaced is None and len(keyids) == 1):
        return keyids
    revoked = [keyid for keyid in keyids if replaced and keyid.startswith(replaced)]
    if len(revoked) != 1:
        count = "no id" if not revoked else f"the ids of {len(revoked)} keys"
        wrong = f"{replaced[:64]!r} is the beginning of {count}. " if replaced else ""
        raise ReleaseFailed(
            f"{wrong}Say with --replace which of the root's keys is replaced, by the beginning of "
            f"its id: {', '.join(keyid[:12] for keyid in keyids)}."
        )
    return revoked
