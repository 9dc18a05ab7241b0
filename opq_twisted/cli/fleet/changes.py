"""The commands of `opq-fleet` that change rollouts and keys."""

import argparse

from opq_twisted.cli.fleet import formats
from opq_twisted.cli.fleet.admissions import read_admissions
from opq_twisted.cli.fleet.client import FleetClient, FleetFailed, KeysRefused
from opq_twisted.cli.program import say, say_json, warn
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common import wording


def hold(options: argparse.Namespace) -> None:
    """Let no box install a release by itself; a click on a box still does."""
    _change_pace(options, "hold")


def resume(options: argparse.Namespace) -> None:
    """Let boxes install a held release again, at the share from before or a smaller one."""
    _change_pace(options, "resume", at_bp=options.at)


def widen(options: argparse.Namespace) -> None:
    """Let more boxes install a release, but never more than the release key allows."""
    _change_pace(options, "widen", to_bp=options.to)


def admit(options: argparse.Namespace) -> None:
    """Trust keys by their fingerprints; each replaces the older keys of its box."""
    keys = read_admissions(options.file)
    try:
        done = FleetClient(options.socket).post(
            "admit",
            because=options.because,
            keys=[{"box_id": each.box_id, "key_id": each.key_id} for each in keys],
        )
    except KeysRefused as error:
        for position, sentence in error.mistakes.items():
            if position < len(keys):
                warn(f"line {keys[position].line}: {sentence}")
        raise FleetFailed(f"{options.file}: {error}") from None
    replaced = done.integer("replaced")
    note = f" They replace {formats.count(replaced, 'older key')}." if replaced else ""
    _say_done(options, done, f"Admitted: {formats.count(done.integer('admitted'), 'key')}.{note}")


def distrust(options: argparse.Namespace) -> None:
    """Distrust a key: the server refuses all reports that it signs."""
    done = FleetClient(options.socket).post("distrust", because=options.because, key=options.key)
    _say_done(
        options,
        done,
        f"The key {done.text('key_id')} of box {formats.name(done)} is distrusted. To trust it "
        "again, admit it.",
    )


def forget(options: argparse.Namespace) -> None:
    """Delete a box and its attempts; it comes back with its next report, if it sends one."""
    done = FleetClient(options.socket).post("forget", because=options.because, name=options.box)
    keys = formats.count(done.integer("keys"), "key")
    attempts = formats.count(done.integer("attempts"), "attempt")
    _say_done(options, done, f"Deleted: {keys} and {attempts}.")


def webhook_test(options: argparse.Namespace) -> None:
    """Let the server send a test message to its webhook, and show the result."""
    done = FleetClient(options.socket).post("webhook-test")
    _say_done(options, done, f"The webhook {done.text('webhook')} accepted the message.")


def _change_pace(options: argparse.Namespace, what: str, **more: int | None) -> None:
    done = FleetClient(options.socket).post(
        what, because=options.because, release=options.release, channel=options.channel, **more
    )
    when = (
        "This server signs a new timestamp now: boxes see it at their next check."
        if done.flag("signs_here")
        else "The server with the timestamp's key signs a new timestamp within some seconds; then "
        "boxes see it."
    )
    release = wording.version(done.integer("release"))
    channel = done.text("channel")
    _say_done(options, done, f"Release {release} in {channel} is {formats.pace(done)}. {when}")


def _say_done(options: argparse.Namespace, done: Document, sentence: str) -> None:
    if options.json:
        say_json(done.content)
    else:
        say(sentence)
