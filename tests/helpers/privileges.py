"""Lets tests run as root and as an ordinary user; skips them if the machine lacks a program."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import SkipTest

_NOBODY = 65534


def lacking(what: str) -> Exception:
    """Return an error that skips the test; on CI it fails the test, for there nothing may lack."""
    return AssertionError(what) if os.environ.get("CI") else SkipTest(what)


def own_mounts() -> list[str]:
    """
    Return the command that runs another as root, with mounts of its own.

    Some machines allow that to root only. There the test is skipped for an ordinary user, and on CI
    only where `ROOT_FOLLOWS` says that `make test-root` runs it.
    """
    command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    tried = subprocess.run(
        [*command, "mount", "--rbind", "/", "/"], capture_output=True, text=True, check=False
    )
    if tried.returncode == 0:
        return command
    sentence = f"This machine lets us have no mounts of our own: {tried.stderr}"
    if os.geteuid() != 0 and os.environ.get("ROOT_FOLLOWS"):
        raise SkipTest(sentence)
    raise lacking(sentence)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Obey file permissions, which root does not; an ordinary user obeys them anyway."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def give_away(folder: Path) -> None:
    """Make the user of `without_privileges` the owner of a folder and its content."""
    if os.geteuid() == 0:
        for parent, _, names in os.walk(folder):
            for path in (parent, *(os.path.join(parent, name) for name in names)):
                os.chown(path, _NOBODY, _NOBODY)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also if a test has removed permissions in it."""
    folder.chmod(0o700)
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder)


def tool(name: str) -> str:
    """Find a program that a test needs."""
    path = shutil.which(name)
    if path is None:
        raise lacking(f"needs {name}")
    return path
