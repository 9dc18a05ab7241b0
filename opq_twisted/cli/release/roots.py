"""The commands of `opq-release` for keys and roots."""

import argparse
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from securesystemslib.signer import Key
from tuf.api.metadata import Root

from opq_twisted.cli.program import say
from opq_twisted.cli.release.prompts import (
    keys_passphrase,
    new_passphrase,
    open_keys,
    timestamp_passphrase,
)
from opq_twisted.common.errors import ReleaseFailed
from opq_twisted.signing.key_folder import RETIRED, KeyFolder, Passphrase
from opq_twisted.signing.repository import Repository
from opq_twisted.signing.root_draft import Draft, check_draft
from opq_twisted.signing.root_keys import ROLES, RootSigner
from opq_twisted.trust.keys import file_name, load, load_public, reencrypt, write_public


def init(options: argparse.Namespace) -> int:
    """Make the keys and the first root."""
    signer = _signer(options, makes_keys=not options.append)
    if options.append:
        return _report(signer, _append(signer, options.append), "The root is in place.")
    public: dict[str, list[Key]] = {}
    for role, path in options.public_key:
        public.setdefault(role, []).append(load_public(path))
    draft = signer.init(
        options.root_keys, options.root_threshold, public, _timestamp_passphrase(options, signer)
    )
    if options.root_threshold == 1:
        say(
            "One root key is enough to sign the next root: a thief of one can take over every box. "
            "If the last one is lost, somebody has to visit each box."
        )
    folder, updates = signer.key_folder.folder, signer.repository.updates
    return _report(
        signer,
        draft,
        f"The keys are in {folder}. Take the root keys offline, each to another place; give the "
        f"timestamp key to the server (--timestamp-key), and keep a copy of the others. Boxes need "
        f"{updates}/tuf/1.root.json as /etc/opq/root.json: build_update.py --trusted-root puts it "
        "into an update.",
    )


def renew_root(options: argparse.Namespace) -> int:
    """Make the next root with the same keys."""
    signer = _signer(options)
    draft = _append(signer, options.append) if options.append else signer.renew_root()
    return _report(signer, draft, "The next root is in place.")


def rotate(options: argparse.Namespace) -> int:
    """Give roles other keys."""
    signer = _signer(options, makes_keys=not options.append)
    if options.append:
        draft = _append(signer, options.append)
    elif not options.role:
        raise ReleaseFailed(f"Name the role that gets another key: {', '.join(ROLES)}.")
    else:
        public = {role: load_public(path) for role, path in options.public_key}
        if len(public) < len(options.public_key):
            raise ReleaseFailed("Each role gets one other key: give only one --public-key for it.")
        draft = signer.rotate(
            list(dict.fromkeys(options.role)),
            public,
            options.replace and _key_id(options.replace),
            _timestamp_passphrase(options, signer),
        )
    done = "The next root is in place."
    if moved := signer.key_folder.moved:
        folder = signer.key_folder.folder / RETIRED
        done += f" It no longer names {', '.join(moved)}: moved to {folder}."
    if "timestamp" in options.role:
        done += " Give the server the new timestamp key, and restart it: boxes wait for that."
    return _report(signer, draft, done)


def keygen(options: argparse.Namespace) -> int:
    """Make a key for a role, and the file of its public key, which others may have."""
    key_folder = open_keys(options, makes_keys=True)
    key = key_folder.create(options.role)
    private = key_folder.folder / file_name(options.role, key)
    public = private.with_suffix(".pub")
    write_public(public, key)
    say(f"The private key is {private}. It stays here; keep a second copy at another place.")
    say(f"The public key is {public}, for: opq-release init --public-key {options.role}=FILE")
    say(f"Its id, to be compared with what the others see: {key.keyid}")
    return 0


def show(options: argparse.Namespace) -> int:
    """Show the changes in a draft of a root, and its signatures; sign nothing."""
    # Nothing is opened here, so no passphrase is needed.
    key_folder = KeyFolder(options.keys_dir, lambda: b"")
    draft = Draft.load(options.draft)
    _show_draft(key_folder, draft)
    if draft.missing:
        say(
            f"It lacks {draft.missing} more signature(s), of these keys: "
            f"{', '.join(draft.may_sign)}."
        )
    else:
        say("It has all its signatures.")
    known = key_folder.trusted_root()
    if known is not None and known.signed_bytes == draft.root.signed_bytes:
        say("These keys have worked with this root already.")
    else:
        check_draft(draft, key_folder, datetime.now(UTC))
    return 0


def encrypt(options: argparse.Namespace) -> int:
    """Encrypt key files again, with another passphrase or the same."""
    passphrase = keys_passphrase(options.passphrase_file, False)
    new = new_passphrase(options.new_passphrase_file, passphrase)
    # All files are opened before the first one is written.
    for path in options.key:
        load(path, passphrase())
    for path in options.key:
        reencrypt(path, passphrase(), new())
        say(
            f"{path} is encrypted again. Do the same with its copies, or replace them by this file."
        )
    return 0


def _append(signer: RootSigner, path: Path) -> Draft | None:
    draft = Draft.load(path)
    _show_draft(signer.key_folder, draft)
    return signer.append(draft)


def _report(signer: RootSigner, draft: Draft | None, done: str) -> int:
    if draft is None:
        say(done)
        return 0
    if draft.missing:
        say(
            f"Root {draft.version} lacks {draft.missing} more signature(s). Take {draft.path} to "
            "the next holder of a root key, who runs this command with --append FILE."
        )
    else:
        say(
            f"Root {draft.version} has all its signatures. Take {draft.path} to where the updates "
            "directory is, and the keys of targets and snapshot, and run this command there with "
            "--append FILE."
        )
    _show_draft(signer.key_folder, draft)
    return 0


def _show_draft(key_folder: KeyFolder, draft: Draft) -> None:
    """Show the content of a draft to a holder who is about to sign it: boxes will trust it."""
    known, before = key_folder.trusted_root(), draft.previous
    if known is not None and known.signed.version < draft.version:
        # Better than the root that came with the draft.
        before = known
    other = None if before is None else before.signed
    for line in _describe_root(draft.root.signed, other, datetime.now(UTC)):
        say(line)
    if before is not None and before is not known:
        say(f"Root {before.signed.version} came with the draft: compare its keys with the holders.")
    say(f"Signed by {', '.join(draft.signed_by) or 'nobody'}.")


def _describe_root(root: Root, before: Root | None, now: datetime) -> Iterator[str]:
    """
    Describe a root completely, and how it differs from another one, line by line.

    :param before: a root that the holder knows; None if this is the first one.
    """
    days = (root.expires - now.astimezone(UTC)).days
    yield (
        f"Root {root.version}, which expires on {root.expires:%Y-%m-%d} (in {days} days), "
        "names these keys:"
    )
    for role in ROLES:
        yield from _describe_role(role, root, before)
    if before is None:
        yield "There is no earlier root: compare each key with its holder."
    elif _content(root) == _content(before):
        yield f"They are the keys of root {before.version}: nothing else has changed."
    else:
        yield f"Root {before.version} was different where it says NEW, REMOVED or CHANGED:"
        for role in ROLES:
            yield from _describe_change(role, root, before)


def _describe_change(role: str, root: Root, before: Root) -> Iterator[str]:
    """Say in words how a role differs from that of an earlier root."""
    now, old = root.roles[role], before.roles[role]
    new = [keyid[:12] for keyid in now.keyids if keyid not in old.keyids]
    gone = [keyid[:12] for keyid in old.keyids if keyid not in now.keyids]
    if new:
        yield f"  {role}: signatures of {', '.join(new)} are trusted from now on."
    if gone:
        yield f"  {role}: signatures of {', '.join(gone)} are not trusted any more."
    if now.threshold != old.threshold:
        yield f"  {role}: {now.threshold} of its keys have to sign, not {old.threshold}."


def _describe_role(role: str, root: Root, before: Root | None) -> Iterator[str]:
    named = root.roles[role]
    old = named if before is None else before.roles[role]
    changed = ""
    if (named.threshold, len(named.keyids)) != (old.threshold, len(old.keyids)):
        changed = f"  CHANGED from {old.threshold} of {len(old.keyids)}"
    yield f"  {role:10} {named.threshold} of {len(named.keyids)}{changed}"
    for keyid in named.keyids:
        yield f"    {keyid}{'' if keyid in old.keyids else '  NEW'}"
    for keyid in old.keyids:
        if keyid not in named.keyids:
            yield f"    {keyid}  REMOVED"


def _content(root: Root) -> dict[str, tuple[int, set[str]]]:
    return {role: (named.threshold, set(named.keyids)) for role, named in root.roles.items()}


def _signer(options: argparse.Namespace, makes_keys: bool = False) -> RootSigner:
    keys = open_keys(options, makes_keys)
    return RootSigner(Repository(options.updates_dir), keys, lambda: datetime.now(UTC))


def _timestamp_passphrase(options: argparse.Namespace, signer: RootSigner) -> Passphrase:
    return timestamp_passphrase(
        options.timestamp_passphrase_file, options.passphrase_file, signer.key_folder.passphrase
    )


def _key_id(text: str) -> str:
    """Return the beginning of a key's id, which may be given as the name of its file."""
    path = Path(text)
    named = re.fullmatch(r"[a-z]+-([0-9a-f]{12})\.pem", path.name)
    if named:
        return named[1]
    return load_public(path).keyid if path.exists() else text
