"""Downloads an archive to a part file, in as many attempts as needed."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from opq_twisted.box.download.assembly import Assembly
from opq_twisted.box.download.part_file import Part
from opq_twisted.box.download.progress import ProgressMeter, ReportProgress
from opq_twisted.box.download.transfer import Transfer, require_allowed
from opq_twisted.box.download.verify import Content, InThread
from opq_twisted.box.network.body import MAX_DURATION, BrokenOff
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.common import wording
from opq_twisted.common.errors import DownloadFailed, NoRoom

#: Seconds between attempts in a row without a new byte; after the last of them the download fails.
RETRY_DELAYS = (1.0, 2.0, 4.0, 10.0, 30.0)

#: Seconds: a longer `Retry-After` is not waited for. The update fails then, and the scheduler tries
#: again after that time.
_MAX_DELAY = 600.0

#: Seconds without a new byte after which a server that keeps sending `Retry-After` is given up.
_MAX_DELAYS_TOTAL = 3600.0

#: Is called with a sentence about each pause.
ReportPause = Callable[[str], object]


async def fetch(
    clock: IReactorTime,
    server: UpdateServerClient,
    url: str,
    expected: Content,
    path: Path,
    limit: int,
    report: ReportProgress = lambda progress: None,
    report_pause: ReportPause = lambda sentence: None,
    in_thread: InThread = deferToThread,
    assembly: Assembly | None = None,
) -> tuple[Content, int]:
    """
    Download a URL to a file, without verifying it.

    After a broken connection, the rest is requested over another one (RFC 9110, section 14). The
    response of a busy server, or the login page of a network, is also followed by another attempt,
    before the first byte as well as after it. When the download fails or is cancelled, the received
    bytes stay in the file, with a record beside it, and the next call continues there.

    A file with expected hashes may be joined from the responses of any servers: the hashes prove in
    the end that they fit. Without hashes, a response is joined only while the server's strong
    validator stays the same (RFC 9110, section 13.1.5).

    With an assembly, pieces of the last good archive are copied to the file, and only the ranges
    between them are requested. If the server sends no such range, everything that is still missing
    is requested.

    :param expected: the signed size and hashes; the server's own are ignored where these are given.
    :param path: of the part file; a part of any other file is removed.
    :param limit: bytes; a larger file is refused.
    :param report: is called with the progress, at most 4 times a second.
    :param report_pause: is called with a sentence about each pause: why, and for how long.
    :param assembly: the pieces that are here; `expected` is its content then.
    :returns: the expected size and hashes, completed by those that the server promised, and the
        number of the file's bytes that were fetched.
    :raises ServerFailed: if the server does not send the file.
    :raises DownloadFailed: if the file does not arrive completely, arrives too slowly, is too
        large, or cannot be verified.
    :raises NoRoom: if the disk has no room for it; the received bytes are removed.
    :raises OSError: if the disk is full or fails; the received bytes are removed.
    """
    expected.require_computable()
    require_allowed(expected.size, limit)
    part = Part(path, url, expected, in_thread)
    try:
        try:
            part.resume()
            if assembly is not None:
                # The first bytes may be copied, before any response could begin the file.
                if not part.size:
                    part.begin(expected, None)
                part.join()
                # After a kill the record does not say how much of the file was copied.
                part.copied = assembly.delta.copied_before(part.size)
            meter = ProgressMeter(clock, report)
            transfer = Transfer(clock, server, url, expected, part, limit, meter, assembly)
            run = _run(clock, transfer, report_pause)
            await Deferred.fromCoroutine(run).addTimeout(MAX_DURATION, clock, _timed_out)
        except NoRoom:
            part.remove()
            raise
        finally:
            part.close()
    except OSError:
        part.remove()
        raise
    return part.content, part.size - part.copied


async def _run(clock: IReactorTime, transfer: Transfer, report_pause: ReportPause) -> None:
    """Make attempts until the file is complete, or too many in a row bring no new byte."""
    part = transfer.part
    fruitless, without_retry_after, largest = 0, 0, part.size
    last_success, is_last = clock.seconds(), False
    while (error := await transfer.attempt(is_last)) is not None:
        retry_after: float | None = getattr(error, "retry_after", None)
        if part.size > largest:
            fruitless, without_retry_after, largest = 0, 0, part.size
            last_success = clock.seconds()
        else:
            fruitless += 1
            without_retry_after += retry_after is None
        delay = max(RETRY_DELAYS[min(fruitless, len(RETRY_DELAYS) - 1)], retry_after or 0.0)
        waited = clock.seconds() - last_success
        if (
            without_retry_after == len(RETRY_DELAYS)
            or delay > _MAX_DELAY
            or waited + delay > _MAX_DELAYS_TOTAL
        ):
            if isinstance(error, BrokenOff):
                error = DownloadFailed(
                    "The connection broke again and again, and nothing came after the first "
                    f"{largest} bytes. Try again later."
                )
            raise error
        sentence = str(error).removesuffix(" Try again.").removesuffix(" Try again later.")
        report_pause(f"{sentence} The box asks again in {wording.duration(delay)}.")
        await deferLater(clock, delay)
        is_last = without_retry_after == len(RETRY_DELAYS) - 1
        if retry_after is not None:
            transfer.meter.exclude_pause(delay)
    if part.size:
        await part.sync()


def _timed_out(_: object, timeout: float) -> NoReturn:
    raise DownloadFailed(f"The download took more than {timeout / 3600:.0f} hours.")
