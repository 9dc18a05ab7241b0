"""Computes the table of docs/scaling.md from what other benchmarks have measured on one machine."""

from collections.abc import Callable

FLEETS = (1_000, 100_000, 1_000_000)

#: Measured by `.waiting`: bytes of memory for each box that waits; and by default so many
#: connections at a server.
WAITING, CONNECTIONS = 5_600, 15_000

#: Seconds between two checks, between two reports on a quiet day, and between two during a
#: rollout: 23 hours and 2 hours, give or take half an hour.
CHECK, QUIET, ROLLOUT = 3_600, 23 * 3_600, 2 * 3_600

#: Boxes begin to report an announcement within the spread of their checks and their reports.
ANNOUNCED = 60

#: Measured by `.fleet`, PostgreSQL: seconds of CPU for a report in large batches and alone.
CPU = (0.62e-3, 3.7e-3)

#: Measured by `.fleet`: bytes of a box with 12 attempts.
SQLITE, POSTGRESQL = 2_030, 2_740

#: Measured by `.report_cost`: bytes in both directions of a report.
REPORT = 780

#: Measured with 1,000 boxes: bytes that PostgreSQL writes into its log for a report of a box whose
#: page it has written since the last checkpoint.
LOG = 600

#: Measured by `.delta`: bytes of an archive, and of an update with one changed line.
ARCHIVE, DELTA = 12_400_000, 29_800

#: Bytes a second of an uplink of 1 Gbit/s.
UPLINK = 1e9 / 8

ROWS: tuple[tuple[str, Callable[[int], str]], ...] = (
    ("connections that wait at `/version`", lambda boxes: f"{boxes:,}"),
    ("memory for them", lambda boxes: size(boxes * WAITING)),
    ("server processes for them", lambda boxes: f"{-(-boxes // CONNECTIONS):,}"),
    ("checks a second", lambda boxes: rate(boxes / CHECK)),
    ("reports a second on a quiet day", lambda boxes: rate(boxes / QUIET)),
    ("reports a second during a rollout", lambda boxes: rate(boxes / ROLLOUT)),
    ("reports a second in the minute after an announcement", lambda boxes: rate(boxes / ANNOUNCED)),
    (
        "cores for the reports during a rollout",
        lambda boxes: " to ".join(f"{boxes / ROLLOUT * each:.4f}" for each in CPU),
    ),
    (
        "traffic of the reports during a rollout",
        lambda boxes: f"{size(boxes / ROLLOUT * REPORT)}/s",
    ),
    ("log of PostgreSQL meanwhile", lambda boxes: f"{size(boxes / ROLLOUT * LOG)}/s"),
    ("database after 12 releases, SQLite", lambda boxes: size(boxes * SQLITE)),
    ("database after 12 releases, PostgreSQL", lambda boxes: size(boxes * POSTGRESQL)),
    ("step of 50 %, whole archives", lambda boxes: transfer(boxes / 2 * ARCHIVE)),
    ("step of 50 %, deltas of one changed line", lambda boxes: transfer(boxes / 2 * DELTA)),
)


def rate(number: float) -> str:
    """Return a number with two digits."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def size(number: float) -> str:
    """Return a number of bytes with two digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{rate(number)} {unit}"
        number /= 1000
    return f"{rate(number)} TB"


def transfer(number: float) -> str:
    """Return a number of bytes, and how long the uplink needs for them."""
    seconds = number / UPLINK
    for unit, length in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * length or unit == "s":
            return f"{size(number)}, {rate(seconds / length)} {unit}"
    raise AssertionError


def main() -> None:
    """Print the table."""
    print("| |", " | ".join(f"{boxes:,} boxes" for boxes in FLEETS), "|")
    print("| --- " * (len(FLEETS) + 1) + "|")
    for name, value in ROWS:
        print(f"| {name} |", " | ".join(value(boxes) for boxes in FLEETS), "|")


if __name__ == "__main__":
    main()
