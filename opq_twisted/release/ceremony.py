"""What the holders of the keys do: begin, sign anew, and give roles other keys."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from opq_twisted import durable
from opq_twisted.errors import ReleaseFailed
from opq_twisted.release.keyring import KeyRing
from opq_twisted.release.rehearsal import try_generations, try_roots
from opq_twisted.release.repository import Generation, Repository, is_signed

#: Days until what is signed by hand expires.
LIFETIME = 365

#: The roles in the order in which their keys are made.
ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)


@frozen
class Draft:
    """A root that lacks signatures, in a file that goes from holder to holder."""

    path: Path
    version: int
    #: How many more of the old root's and of the new root's keys have to sign.
    missing: int


@frozen
class Ceremony:
    """The keys in one folder at work on one repository."""

    repository: Repository
    ring: KeyRing
    now: Callable[[], datetime]

    def init(
        self,
        root_keys: int,
        root_threshold: int,
        public: Mapping[str, Sequence[Key]],
        timestamp_passphrase: Callable[[], bytes] | None = None,
    ) -> Draft | None:
        """
        Make the keys that are not there yet, and the first root, targets and snapshot.

        Run again after an interruption it goes on with the keys that it has made.

        :param public: keys that were made elsewhere, by role.
        :returns: a draft when the root's keys here are too few to sign it.
        :raises ReleaseFailed: when there is a root already, or the numbers make no sense.
        :raises KeyUnusable: when a key cannot be made or opened.
        :raises OSError: when the disk is full or fails.
        """
        if not 1 <= root_threshold <= root_keys <= 16:
            raise ReleaseFailed(
                f"{root_threshold} of {root_keys} root keys make no sense: give at most 16 keys, "
                "and a threshold from 1 to their number."
            )
        with self.repository.locked():
            if self.repository.numbers(Root.type):
                raise ReleaseFailed(
                    f"{self.repository.folder} has a root already: boxes that trust it could not "
                    "follow another one. Use rotate to change keys."
                )
            root = Root(1, expires=self._expires())
            for role in ROLES:
                passphrase = timestamp_passphrase if role == Timestamp.type else None
                wanted = root_keys if role == Root.type else 1
                for key in self._keys_for(role, wanted, public.get(role, ()), passphrase):
                    root.add_key(key, role)
            root.roles[Root.type].threshold = root_threshold
            return self._sign_root(Metadata(root), None)

    def _keys_for(
        self,
        role: str,
        wanted: int,
        public: Sequence[Key],
        passphrase: Callable[[], bytes] | None,
    ) -> list[Key]:
        found = {key.keyid: key for key in [*public, *self.ring.left_by(role, passphrase)]}
        if len(found) > wanted:
            raise ReleaseFailed(
                f"There are {len(found)} keys for {role} in {self.ring.folder} and on the command "
                f"line, and {wanted} are wanted: take the others away."
            )
        while len(found) < wanted:
            key = self.ring.create(role, passphrase).public_key
            found[key.keyid] = key
        return list(found.values())

    def resign(self) -> None:
        """
        Sign targets and snapshot anew, for a year from now.

        :raises ReleaseFailed: when a key is missing, or boxes would refuse the result.
        :raises OSError: when the disk is full or fails.
        """
        with self.repository.locked():
            current = self.repository.current()
            after = self.sign(current)
            try_generations(current, after)
            self.repository.place(after.targets, after.snapshot)

    def sign(self, generation: Generation) -> Generation:
        """
        Give targets and snapshot their next numbers, another year, and the signatures of its root.

        :raises ReleaseFailed: when a key is missing.
        """
        repository, root = self.repository, generation.root
        targets = Targets(
            repository.next_number(Targets.type),
            expires=self._expires(),
            targets=generation.targets.signed.targets,
        )
        snapshot = Snapshot(
            repository.next_number(Snapshot.type),
            expires=self._expires(),
            meta={"targets.json": MetaFile(targets.version)},
        )
        signed_targets, signed_snapshot = Metadata(targets), Metadata(snapshot)
        for signer in self.ring.enough(root.signed, Targets.type):
            signed_targets.sign(signer, append=True)
        for signer in self.ring.enough(root.signed, Snapshot.type):
            signed_snapshot.sign(signer, append=True)
        return Generation(root, signed_targets, signed_snapshot)

    def renew_root(self) -> Draft | None:
        """
        Make the next root, with the same keys, for a year from now.

        :returns: a draft when the root's keys here are too few to sign it.
        :raises ReleaseFailed: when no key of root is here, or boxes would refuse the result.
        :raises OSError: when the disk is full or fails.
        """
        with self.repository.locked():
            current = self.repository.roots()[-1]
            return self._sign_root(self._next_root(current), current)

    def rotate(
        self,
        roles: Sequence[str],
        public: Mapping[str, Key],
        replaced: str | None = None,
        timestamp_passphrase: Callable[[], bytes] | None = None,
    ) -> Draft | None:
        """
        Give roles other keys by the next root, and sign with them what the old keys had signed.

        :param public: keys that were made elsewhere, by role.
        :param replaced: the beginning of the id of the root's key that goes.
        :returns: a draft when the root's keys here are too few to sign it.
        :raises ReleaseFailed: when a key is missing, or boxes would refuse the result.
        :raises KeyUnusable: when a key cannot be made or opened.
        :raises OSError: when the disk is full or fails.
        """
        with self.repository.locked():
            current = self.repository.roots()[-1]
            root = self._next_root(current)
            if not self.ring.signers(current.signed, Root.type):
                raise _no_root_key(self.ring.folder)
            made: list[tuple[str, Key]] = []
            try:
                for role in roles:
                    for keyid in self._going(root.signed, role, replaced):
                        root.signed.revoke_key(keyid, role)
                    key = public.get(role)
                    if key is None:
                        passphrase = timestamp_passphrase if role == Timestamp.type else None
                        key = self.ring.create(role, passphrase).public_key
                        made.append((role, key))
                    root.signed.add_key(key, role)
                return self._sign_root(root, current)
            except BaseException:
                # A root that was placed may name them, and a draft does.
                if self.repository.roots()[-1].signed.version == current.signed.version:
                    for role, key in made:
                        self.ring.forget(role, key)
                raise

    def _going(self, root: Root, role: str, replaced: str | None) -> list[str]:
        keyids = root.roles[role].keyids
        if role != Root.type:
            return list(keyids)
        going = [keyid for keyid in keyids if replaced and keyid.startswith(replaced)]
        if len(going) != 1:
            raise ReleaseFailed(
                "Say with --replace which of the root's keys goes, by the beginning of its id: "
                f"{', '.join(keyid[:12] for keyid in keyids)}."
            )
        return going

    def append(self, path: Path) -> Draft | None:
        """
        Add the signatures of the root's keys that lie here to a draft; place it if it is complete.

        :returns: the draft while it lacks signatures, or while it cannot be placed from here.
        :raises ReleaseFailed: when it is none, is out of date, or boxes would refuse it.
        :raises OSError: when the disk is full or fails.
        """
        try:
            root = Metadata[Root].from_bytes(path.read_bytes())
            if not isinstance(root.signed, Root):
                raise RepositoryError("it is no root")
        except (OSError, RepositoryError) as error:
            raise ReleaseFailed(f"The draft {path} cannot be used: {error}.") from None
        if not self.repository.updates.is_dir():
            # On another holder's machine: what it follows is not here to be compared.
            self._add_signatures(root, None)
            return _keep(path, root, None)
        with self.repository.locked():
            version = root.signed.version
            numbers = self.repository.numbers(Root.type)
            if max(numbers, default=0) != version - 1:
                raise ReleaseFailed(
                    f"The draft {path} is root {version}, which does not follow the root in "
                    f"{self.repository.folder}: begin again."
                )
            current = self.repository.roots()[-1] if numbers else None
            self._add_signatures(root, current)
            # Whatever keeps it from being placed from here: the signatures are in it.
            durable.write(path, root.to_bytes())
            draft = self._sign_root(root, current, path)
            if draft is None:
                path.unlink()
            return draft

    def _next_root(self, current: Metadata[Root]) -> Metadata[Root]:
        # By way of its bytes: a copy that shares nothing with what it follows.
        root = Metadata[Root].from_bytes(current.to_bytes()).signed
        root.version += 1
        root.expires = self._expires()
        return Metadata(root)

    def _add_signatures(self, root: Metadata[Root], current: Metadata[Root] | None) -> None:
        signers = self.ring.signers(root.signed, Root.type)
        if current is not None:
            signers += self.ring.signers(current.signed, Root.type)
        if not signers:
            raise _no_root_key(self.ring.folder)
        for signer in signers:
            if signer.public_key.keyid not in root.signatures:
                root.sign(signer, append=True)

    def _sign_root(
        self, root: Metadata[Root], current: Metadata[Root] | None, path: Path | None = None
    ) -> Draft | None:
        self._add_signatures(root, current)
        result = root.signed.get_root_verification_result(
            None if current is None else current.signed, root.signed_bytes, root.signatures
        )
        if not result.verified:
            path = path or self.ring.folder / f"root-{root.signed.version}.draft.json"
            return _keep(path, root, current)
        self._place_root(root, first=current is None)
        return None

    def _place_root(self, root: Metadata[Root], first: bool) -> None:
        """Place a root; what it no longer accepts is signed anew, and placed before it."""
        repository = self.repository
        roots = [*([] if first else repository.roots()), root]
        try_roots(roots)
        if first:
            nothing = Metadata(Targets()), Metadata(Snapshot())
            after = self.sign(Generation(root, *nothing))
            try_generations(after)
            repository.place(after.targets, after.snapshot)
        else:
            latest = repository.latest()
            if not (
                is_signed(root.signed, latest.targets) and is_signed(root.signed, latest.snapshot)
            ):
                after = self.sign(Generation(root, latest.targets, latest.snapshot))
                try_generations(repository.current(), after)
                # The server takes a snapshot when the root in place accepts it, and not before.
                repository.place(after.targets, after.snapshot)
        repository.place(root)
        self.ring.retire([each.signed for each in roots])

    def _expires(self) -> datetime:
        return self.now().astimezone(UTC).replace(microsecond=0) + timedelta(days=LIFETIME)


def _keep(path: Path, root: Metadata[Root], current: Metadata[Root] | None) -> Draft:
    durable.write(path, root.to_bytes())
    result = root.signed.get_root_verification_result(
        None if current is None else current.signed, root.signed_bytes, root.signatures
    )
    return Draft(path, root.signed.version, max(result.first.missing, result.second.missing))


def _no_root_key(folder: Path) -> ReleaseFailed:
    return ReleaseFailed(
        f"{folder} holds no key of root: run this where one is, or name its folder with --keys-dir."
    )
