"""`opq-box`: for those who set up a box, or look after one."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from opq_twisted.archive.name import parse_version
from opq_twisted.cli.box import password_prompt
from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.box.follow import RetryTimer, log_lines, statuses
from opq_twisted.cli.box.progress import StageDisplay, is_at_rest
from opq_twisted.cli.box.untrusted_json import Document
from opq_twisted.cli.program import Command, add_command, run, say, say_json, warn
from opq_twisted.common import files, wording
from opq_twisted.common.errors import InvalidName, UpdateFailed

#: Where the agent is, if nobody says otherwise.
_URL, _URL_VARIABLE = "http://127.0.0.1:8080", "OPQ_BOX_URL"

_CONFIG = Path("/etc/opq/opqbox_config.json")

#: Exit code of `check`.
_UPDATE_AVAILABLE = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; give the exit code."""
    return run("opq-box", make_parser().parse_args(arguments))


def status(options: argparse.Namespace) -> int:
    """Say how the box is."""
    found = _agent(options).status()
    if options.json:
        say_json(found.content)
    else:
        _show(found)
    return 0


def check(options: argparse.Namespace) -> int:
    """Ask the update server now; the exit code is 10 when there is an update."""
    agent = _agent(options)
    said = agent.check()
    found = agent.status()
    is_available = found.flag("update_available")
    if options.json:
        say_json({**said.content, "update_available": is_available})
    else:
        say(f"Installed    {wording.version(found.integer('installed'))}")
        say(f"Available    {wording.version(found.integer('available'))}")
        say(said.text("status"))
        if is_available and found.text("notes"):
            say(f"What is new: {found.text('notes')}")
    return _UPDATE_AVAILABLE if is_available else 0


def update(options: argparse.Namespace) -> int:
    """Update the box, and follow that to its end, through the reboot."""
    agent = _agent(options)
    before = agent.status().part("last_attempt")
    with _left_alone(), StageDisplay() as display:
        timer = RetryTimer(time, warn if options.json else display.announce)
        show = _show_json if options.json else display.show
        agent.update()
        last = Document({})
        for found in statuses(agent, timer):
            if found != last:
                show(found)
            last = found
            if is_at_rest(found):
                break
    return _tell_end(before, last, options.json)


def log(options: argparse.Namespace) -> int:
    """Print what the installer said in the last update."""
    lines = log_lines(_agent(options), RetryTimer(time, warn) if options.follow else None)
    if options.json and not options.follow:
        say_json({"lines": list(lines)})
        return 0
    is_empty = True
    for line in lines:
        is_empty = False
        somebody_reads = say_json({"line": line}) if options.json else say(line)
        if not somebody_reads:
            break
    if is_empty:
        warn("No installer has said anything yet.")
    return 0


def history(options: argparse.Namespace) -> int:
    """Say what became of the last updates, and which releases are refused."""
    found = _agent(options).history()
    if options.json:
        say_json(found.content)
        return 0
    attempts, refused = found.parts("attempts"), found.parts("refused")
    if not attempts:
        say("No update has been tried yet.")
    for attempt in attempts:
        say(_describe(attempt))
    for refusal in refused:
        version = refusal.integer("version")
        say(f"Refused: {wording.version(version)}. {refusal.text('reason')}")
        say(f"  It is tried again by itself after: opq-box forgive {version}")
    return 0


def unblock(options: argparse.Namespace) -> int:
    """Let a release that was refused be tried again by itself."""
    return _say_done(options, _agent(options).unblock(options.release).text("status"))


def adopt(options: argparse.Namespace) -> int:
    """Keep the archive of the release that runs, so that the box can return to it."""
    # Not above: it brings the agent's own modules, and triples the time that all else takes.
    from opq_twisted.cli.box import adopt as adoption

    return _say_done(
        options, adoption.register_last_good(options.archive, options.config, options.state_dir)
    )


def password(options: argparse.Namespace) -> int:
    """Choose the password that the box asks for before it does something."""
    from opq_twisted.box.web.auth import PasswordHash

    hashed = PasswordHash.of(password_prompt.read_new())
    files.write(options.file, f"{hashed}\n".encode(), 0o600)
    return _say_done(
        options,
        f"The password is in {options.file}, as a hash. Name that file as web_password_file in the "
        "box's configuration, and restart the agent.",
    )


def config(options: argparse.Namespace) -> int:
    """Check a configuration without a restart of the agent, and print how the agent reads it."""
    from opq_twisted.cli.box import check_config

    settings = check_config.check(options.file)
    if options.json:
        say_json(settings)
        return 0
    say(f"The agent can use the configuration {options.file}, and reads it as:")
    for line in json.dumps(settings, indent=2).splitlines():
        say(line)
    return 0


def _agent(options: argparse.Namespace) -> AgentClient:
    return AgentClient(
        options.url, partial(password_prompt.read_current, getattr(options, "password_file", None))
    )


def _say_done(options: argparse.Namespace, sentence: str) -> int:
    if options.json:
        say_json({"status": sentence})
    else:
        say(sentence)
    return 0


def _show(found: Document) -> None:
    """Show a status to people."""
    attempt = found.part("last_attempt")
    message = found.text("message")
    rows = [
        ("Installed", wording.version(found.integer("installed"))),
        ("Available", wording.version(found.integer("available"))),
        ("Stage", found.text("stage") + _describe_progress(found.part("progress"))),
        ("", "" if message == attempt.text("reason") else message),
        ("Last check", wording.moment(found.number("last_check"), "not since the agent started")),
        ("Next check", wording.moment(found.number("next_check"))),
    ]
    if found.flag("update_available") and is_at_rest(found) and not found.text("trouble"):
        rows[2:2] = [("What is new", found.text("notes")), ("", "opq-box update installs it.")]
    if found.flag("unsigned"):
        rows.append(("Unsigned", "This box installs releases without checking who made them."))
    if attempt.content:
        rows.append(("Last update", _describe(attempt)))
    for name, text in rows:
        if text:
            say(f"{name:11}  {text}")


def _describe_progress(progress: Document) -> str:
    received, total = progress.number("received"), progress.number("total")
    if received is None:
        return ""
    of_total = "" if total is None else f" of {wording.size(total)}"
    rate = wording.size(progress.number("rate") or 0)
    return f", {wording.size(received)}{of_total}, {rate} a second"


def _describe(attempt: Document) -> str:
    """Say what became of an update."""
    version, ended = attempt.integer("version"), attempt.number("ended")
    of_release = "" if version is None else f", release {wording.version(version)}"
    took = ""
    if ended is not None:
        took = f" in {wording.duration(ended - (attempt.number('started') or ended))}"
    outcome = attempt.text("outcome")
    return f"{wording.moment(ended)}  {outcome}{took}{of_release}. {attempt.text('reason')}"


def _show_json(found: Document) -> None:
    say_json(found.content)


@contextmanager
def _left_alone() -> Iterator[None]:
    """Say, where a signal ends this, that the box is not stopped by that."""
    try:
        yield
    except SystemExit:
        warn("An update that has begun goes on without this: opq-box status says how it is.")
        raise


def _tell_end(before: Document, last: Document, as_json: bool) -> int:
    """
    Say what came of an update.

    :param before: the last attempt before it began.
    :raises UpdateFailed: when it did not bring the box to the new release.
    """
    attempt = last.part("last_attempt")
    is_new = bool(attempt.content) and attempt != before
    reason = attempt.text("reason") if is_new else last.text("message")
    if is_new and attempt.text("outcome") == "failed":
        raise UpdateFailed(f"The update failed: {reason}")
    if is_new and attempt.text("outcome") != "updated":
        raise UpdateFailed(reason)
    if not as_json:
        say(reason)
    return 0


def _release(text: str) -> int:
    try:
        return parse_version(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def make_parser() -> argparse.ArgumentParser:
    """Define the command line."""
    parser = argparse.ArgumentParser(
        prog="opq-box",
        description="Look after an OPQ box.",
        epilog="The exit code is 0 when all went well, 1 when not, and 2 for a wrong command line. "
        f"That of check is {_UPDATE_AVAILABLE} when there is an update. That of update is 0 when "
        "the box was updated or there was nothing to do, and 1 when the update failed or the box "
        f"has returned to its last good release. {_URL_VARIABLE} in the environment is the default "
        "for --url.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Command) -> argparse.ArgumentParser:
        sub = add_command(commands, name, command)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if command not in (adopt, config, password):
            sub.add_argument(
                "--url",
                default=os.environ.get(_URL_VARIABLE) or _URL,
                help=f"where the box's agent is (default: {_URL})",
            )
        if command in (check, update, unblock):
            sub.add_argument(
                "--password-file",
                type=Path,
                metavar="FILE",
                help="holds the box's password, where it has one (default: it is asked for)",
            )
        return sub

    add("status", status)
    add("check", check)
    add("update", update)
    add("log", log).add_argument(
        "--follow", action="store_true", help="go on with what it says later, until Ctrl-C"
    )
    add("history", history)
    add("forgive", unblock).add_argument(
        "release", type=_release, metavar="RELEASE", help="its version, as history shows it"
    )
    keep = add("adopt", adopt)
    keep.add_argument("archive", type=Path, metavar="ARCHIVE", help="what build_update.py made")
    keep.add_argument(
        "--config",
        type=Path,
        default=_CONFIG,
        metavar="FILE",
        help="the box's configuration (default: %(default)s)",
    )
    keep.add_argument(
        "--state-dir",
        type=Path,
        default=Path("/var/lib/opq/updater"),
        metavar="DIR",
        help="the agent's state directory (default: %(default)s)",
    )
    add("config", config).add_argument(
        "file",
        type=Path,
        nargs="?",
        default=_CONFIG,
        metavar="FILE",
        help="the configuration (default: %(default)s)",
    )
    add("password", password).add_argument(
        "file", type=Path, metavar="FILE", help="the file to keep a hash of it in"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
