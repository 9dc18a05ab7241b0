"""An example of a report."""

from opq_twisted.report.document import Report

REPORT = Report(
    key="9f2c" * 8,
    seq=41,
    box=7,
    agent="0.2.0",
    release=1547860803,
    channel="stable",
    install="automatic",
    root=3,
    snapshot=12,
    boot="5be1c0aa",
    arch="aarch64",
    python="3.11",
    waiting=None,
    last_good=1547860803,
)
