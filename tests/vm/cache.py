"""Keeps the results of slow builds, under a hash of their inputs."""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def key(*values: str, files: Iterable[Path] = ()) -> str:
    """Hash values and files, with the files' names and modes."""
    digest = hashlib.sha256(repr(values).encode())
    for path in sorted(files):
        status = path.stat()
        digest.update(f"{path.relative_to(ROOT)} {status.st_mode:o} {status.st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def files_below(*folders: Path) -> list[Path]:
    """All files in these folders but Python's caches."""
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    ]


def kept(cache: Path, kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """
    Return the folder of this build, and build it if it does not exist.

    Folders of other inputs are removed, because nobody will need them again.
    """
    folder = cache / f"{kind}-{key}"
    if not folder.is_dir():
        for older in cache.glob(f"{kind}-*"):
            shutil.rmtree(older)
        draft = cache / f"{kind}-draft"
        draft.mkdir(parents=True)
        make(draft)
        draft.rename(folder)
    return folder
