"""Read the passphrase of a key from a file: one rule for the release tool and the server."""

from pathlib import Path

from opq_twisted.common import files
from opq_twisted.common.errors import KeyUnusable

#: Bytes of the file, and of the passphrase.
_LONGEST_FILE, _LONGEST = 64 << 10, 4096

#: What some editors write before UTF-8 text.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

#: Characters below which a passphrase is called short (NIST SP 800-63B-4, section 3.1.1.2: at
#: least 15 where nothing but the password protects).
SHORT = 15


def read_passphrase(path: Path) -> bytes:
    """
    Give the first line of a file, without its end and without a byte order mark.

    Further lines may say what it is for. Spaces belong to the passphrase.

    :raises KeyUnusable: when there is no passphrase, or the file cannot be read.
    """
    try:
        data = files.read(path, _LONGEST_FILE)
    except OSError as error:
        raise KeyUnusable(
            f"The passphrase in {path} cannot be read: {error.strerror}. Name a regular file "
            "whose first line is the passphrase, or put the passphrase into the environment."
        ) from None
    line = data.removeprefix(_BYTE_ORDER_MARK).split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise KeyUnusable(f"The first line of {path} is empty: write the passphrase into it.")
    if len(line) > _LONGEST:
        raise KeyUnusable(
            f"The first line of {path} has more than {_LONGEST} bytes: it is no passphrase."
        )
    return line


def warning_about_access(path: Path) -> str | None:
    """Say that others can read the passphrase in a file, if they can."""
    try:
        is_open = files.is_open_to_others(path)
    except OSError:
        return None  # the attempt to read it says why
    if not is_open:
        return None
    return f"Every user of this machine can read the passphrase in {path}: chmod go-rwx {path}"


def warning_about_length(passphrase: bytes) -> str | None:
    """Say that a passphrase is short, if it is."""
    length = len(passphrase.decode("utf-8", "replace"))
    if not 0 < length < SHORT:
        return None
    return (
        f"The passphrase has {length} characters: whoever steals the key file can guess it. Take "
        f"at least {SHORT}, for example the output of: openssl rand -hex 32"
    )
