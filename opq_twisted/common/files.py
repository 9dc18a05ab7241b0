"""Opens, reads and hashes files within bounds; replaces them so that they survive power cuts."""

import errno
import fcntl
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: The errors of file systems without hard links, fsync or locks: among them are FAT, shared folders
#: of virtual machines, and network file systems.
_NO_HARD_LINKS = (
    *(errno.EPERM, errno.EXDEV, errno.EMLINK),
    *(errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL),
)
_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_NO_LOCKS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)

#: The mode of files that other users, such as a server, have to read.
READABLE_BY_ALL = 0o644

#: With these flags the opening of a FIFO or a device does not block.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_CHUNK = 1 << 19


class NotRegular(OSError):
    """The path names a directory, a FIFO, a device or a socket."""


def open_regular(path: Path, follow_links: bool = True) -> io.FileIO:
    """
    Open a regular file for reading.

    :param follow_links: whether `path` itself may be a symbolic link; otherwise the error is ELOOP.
    :raises NotRegular: if the path names something else.
    :raises OSError: if the file cannot be opened.
    """
    fd = os.open(path, _FLAGS if follow_links else _FLAGS | os.O_NOFOLLOW)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        reason = os.strerror(number) if stat.S_ISDIR(mode) else "It is not a regular file"
        raise NotRegular(number, reason, os.fspath(path))
    return io.FileIO(fd)


def hash_file(
    fd: int,
    algorithms: Iterable[str],
    size: int | None = None,
    each_chunk: Callable[[bytes], object] = lambda chunk: None,
) -> dict[str, str]:
    """
    Hash an open file from its first byte, each algorithm in a thread of its own.

    The position of the descriptor does not move.

    :param algorithms: names that `hashlib.new` knows.
    :param size: the number of bytes to read. Without it, a file that grows is read for ever.
    :param each_chunk: is called with all bytes in order, to copy them or to show the progress. If
        it raises an error, the hashing ends with that error.
    :returns: the hashes in lower-case hexadecimal, by algorithm.
    :raises OSError: if the file cannot be read.
    """
    hashes = {name: hashlib.new(name) for name in algorithms}
    offset = 0
    with ThreadPoolExecutor(len(hashes)) as pool:
        updates: list[Future[None]] = []
        while chunk := os.pread(fd, _CHUNK if size is None else min(_CHUNK, size - offset), offset):
            wait(updates)
            updates = [pool.submit(each.update, chunk) for each in hashes.values()]
            each_chunk(chunk)
            offset += len(chunk)
    return {name: each.hexdigest() for name, each in hashes.items()}


def read(path: Path, max_size: int) -> bytes:
    """
    Read a whole regular file.

    :param max_size: the largest allowed size, in bytes.
    :raises OSError: if the file cannot be read, is not a regular file, or is larger.
    """
    # One byte more than is allowed: the file may grow after its size is read.
    with open_regular(path) as file, io.BufferedReader(file) as buffered:
        data = buffered.read(max_size + 1)
    if len(data) > max_size:
        raise OSError(errno.EFBIG, f"It has more than {max_size} bytes", os.fspath(path))
    return data


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is below a folder once all links are followed, that of the folder too."""
    # Path.resolve() would raise RuntimeError for a link to itself.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def is_open_to_others(path: Path) -> bool:
    """
    Whether users besides the owner and the group of a file may read or write it.

    The group is allowed, because systemd passes credentials to a service as files of mode 0440.

    :raises OSError: if there is no such file.
    """
    return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))


def write(
    path: Path, data: bytes, mode: int | None = None, owner: tuple[int, int] | None = None
) -> None:
    """
    Replace the content of a file, and return when it is on the disk.

    A power cut leaves the old content or the new one.

    :param mode: the permissions of the file from its creation on; None for those of the umask.
    :param owner: the ids of the user and the group to which the file is given; None for the caller.
    :raises OSError: if the disk is full or fails; the old file is unchanged then.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with create(temporary, 0o666 if mode is None else mode) as file:
            if mode is not None:
                # The umask may have removed permissions.
                os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            file.write(data)
            file.flush()
            sync(file.fileno())
        rename(temporary, path)
    except BaseException:
        # BaseException: a signal may end the program.
        temporary.unlink(missing_ok=True)
        raise


def create(path: Path, mode: int = 0o666) -> BinaryIO:
    """
    Create a new file for writing; an older one with this name is removed first.

    In a folder to which others can write, that may be a link or a FIFO: neither is opened.

    :param mode: the permissions, from which the umask is subtracted.
    :raises OSError: if the file cannot be created.
    """
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb")


def rename(source: Path, target: Path) -> None:
    """
    Rename a file within its folder, and return when that is on the disk.

    :raises OSError: if the file cannot be renamed, or the disk fails.
    """
    source.replace(target)
    sync_folder(target.parent)


def link_no_replace(draft: Path, target: Path) -> None:
    """
    Give a finished file its final name in the same folder, unless that name is taken.

    The caller removes the draft and syncs the folder.

    :raises FileExistsError: if the name is taken.
    :raises OSError: if the file cannot get the name for another reason.
    """
    try:
        # A rename would replace a file that another program wrote in the meantime.
        target.hardlink_to(draft)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        draft.rename(target)


def sync_folder(folder: Path) -> None:
    """Return when the entries of a folder are on the disk; raise `OSError` if the disk fails."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync(fd: int, data_only: bool = False) -> None:
    """
    Return when the written data is on the disk, if the file system supports that.

    :param data_only: whether the metadata, such as the times of the file, may be written later.
    :raises OSError: if the disk fails.
    """
    try:
        (os.fdatasync if data_only else os.fsync)(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def lock(path: Path, blocking: bool = False) -> int:
    """
    Create a lock file, unless it exists, and lock it against other processes (flock(2)).

    On a file system without locks the file is opened, and no other process is kept out.

    :param blocking: whether to wait until another process releases the lock.
    :returns: a descriptor; closing it releases the lock.
    :raises BlockingIOError: if another process holds the lock.
    :raises OSError: if the file cannot be created or locked.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(fd)
            raise
    return fd


@contextmanager
def locked(path: Path, blocking: bool = False) -> Iterator[None]:
    """Hold a lock while the context lasts; the parameters and errors are those of `lock`."""
    fd = lock(path, blocking)
    try:
        yield
    finally:
        os.close(fd)
