"""Reads the passphrase of a key from a file, for `opq-release` and for the server."""

from pathlib import Path

from opq_twisted.common import files
from opq_twisted.common.errors import KeyUnusable

#: Bytes of the file, and of the passphrase.
_MAX_FILE, _MAX_PASSPHRASE = 64 << 10, 4096

#: Some editors write this before UTF-8 text.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

#: A passphrase with fewer characters is called short (NIST SP 800-63B-4, section 3.1.1.2: at
#: least 15 if the password is the only protection).
SHORT = 15


def read_passphrase(path: Path) -> bytes:
    """
    Return the first line of a file, without the line ending and without a byte order mark.

    Spaces belong to the passphrase. Further lines are ignored, and may hold a comment.

    :raises KeyUnusable: if there is no passphrase, or the file cannot be read.
    """
    try:
        data = files.read(path, _MAX_FILE)
    except OSError as error:
        raise KeyUnusable(
            f"The passphrase in {path} cannot be read: {error.strerror}. Name a regular file "
            "whose first line is the passphrase, or put the passphrase into the environment."
        ) from None
    line = data.removeprefix(_BYTE_ORDER_MARK).split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise KeyUnusable(f"The first line of {path} is empty: write the passphrase into it.")
    if len(line) > _MAX_PASSPHRASE:
        raise KeyUnusable(
            f"The first line of {path} has more than {_MAX_PASSPHRASE} bytes: it is no passphrase."
        )
    return line


def warning_about_access(path: Path) -> str | None:
    """Return a warning if other users can read the passphrase in a file."""
    try:
        is_open = files.is_open_to_others(path)
    except OSError:
        return None  # reading the file reports the reason
    if not is_open:
        return None
    return f"Every user of this machine can read the passphrase in {path}: chmod go-rwx {path}"


def warning_about_length(passphrase: bytes) -> str | None:
    """Return a warning if a passphrase is short."""
    length = len(passphrase.decode("utf-8", "replace"))
    if not 0 < length < SHORT:
        return None
    return (
        f"The passphrase has {length} characters: whoever steals the key file can guess it. Take "
        f"at least {SHORT}, for example the output of: openssl rand -hex 32"
    )
