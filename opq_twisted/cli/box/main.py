"""`opq-box`: the command line for people who set up or maintain a box."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from opq_twisted.archive.name import parse_version
from opq_twisted.box.state.records import Stage
from opq_twisted.cli.box import password_prompt
from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.box.follow import RetryTimer, log_lines, statuses
from opq_twisted.cli.box.progress import StageDisplay, is_at_rest
from opq_twisted.cli.parser import Command, Parser, add_command
from opq_twisted.cli.program import run, say, say_json, say_line, warn
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common import files, wording
from opq_twisted.common.errors import InvalidName, UpdateFailed

_URL, _URL_VARIABLE = "http://127.0.0.1:8080", "OPQ_BOX_URL"

_CONFIG = Path("/etc/opq/opqbox_config.json")
_STATE_DIR = Path("/var/lib/opq/updater")

_NO_REPORTS = "none: this box sends no reports"

#: Exit code of `check`.
_UPDATE_AVAILABLE = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return the exit code."""
    return run("opq-box", make_parser().parse_args(arguments))


def status(options: argparse.Namespace) -> None:
    """Show the state of the box."""
    found = _agent(options).status()
    if options.json:
        say_json(found.content)
    else:
        _show(found)


def check(options: argparse.Namespace) -> int:
    """Check for an update now; the exit code is 10 if there is one."""
    agent = _agent(options)
    answer = agent.check()
    found = agent.status()
    is_available = found.flag("update_available")
    if options.json:
        say_json({**answer.content, "update_available": is_available})
    else:
        notes = found.lines("notes") if is_available else ""
        _say_row("Installed", wording.version(found.integer("installed")))
        _say_row("Available", wording.version(found.integer("available")))
        _say_row("What is new", notes)
        say(answer.text("status"))
    return _UPDATE_AVAILABLE if is_available else 0


def update(options: argparse.Namespace) -> None:
    """Update the box, and follow the update to its end, also through the reboot."""
    agent = _agent(options)
    before = agent.status().part("last_attempt")
    try:
        last = _start_and_follow(agent, options.json)
    except SystemExit:
        warn("The command ends, but an update that has begun goes on: opq-box status shows it.")
        raise
    _report_result(before, last, options.json)


def log(options: argparse.Namespace) -> None:
    """Print the output of the installer in the last update."""
    lines = log_lines(_agent(options), RetryTimer(time, warn) if options.follow else None)
    if options.json and not options.follow:
        say_json({"lines": list(lines)})
        return
    is_empty = True
    for line in lines:
        is_empty = False
        is_read = say_json({"line": line}) if options.json else say_line(line)
        if not is_read:
            break
    if is_empty:
        warn("No installer has run yet.")


def history(options: argparse.Namespace) -> None:
    """Show the results of the last updates, and the blocked releases."""
    agent = _agent(options)
    found = agent.history()
    if options.json:
        say_json(found.content)
        return
    attempts = found.parts("attempts")
    if not attempts:
        now = agent.status()
        is_first = not is_at_rest(now)
        say(
            f"The first update is under way: {now.text('stage')}."
            if is_first
            else "No update has been tried yet."
        )
    for attempt in attempts:
        say(_describe(attempt), indent=2)
    for blocked in found.parts("refused"):
        version = blocked.integer("version")
        say(f"Blocked: {wording.version(version)}. {blocked.text('reason')}", indent=2)
        say_line(f"  To let the box try it again: opq-box forgive {version}")


def report(options: argparse.Namespace) -> None:
    """Show what the box tells the update server about itself."""
    found = _agent(options).report()
    last = found.part("last")
    if options.json:
        say_json(found.content)
    elif options.show and last.content:
        for line in last.embedded("body"):
            say_line(line)
    elif options.show:
        say("The box has sent no report since its agent started.")
    else:
        _say_row("Fingerprint", found.text("fingerprint") or _NO_REPORTS)
        _say_row("Last report", _describe_report(last.number("sent"), last.text("answer")))


def unblock(options: argparse.Namespace) -> None:
    """Let the box install a blocked release without a click again."""
    _say_done(options, _agent(options).unblock(options.release).text("status"))


def adopt(options: argparse.Namespace) -> None:
    """Keep the archive of the installed release, so that the box can roll back to it."""
    # Imported late: the agent's modules triple the time that every other command takes.
    from opq_twisted.cli.box.adopt import register_last_good, store_for_installation

    if options.unpacked is not None:
        sentence = store_for_installation(options.archive, options.unpacked, options.state_dir)
    else:
        sentence = register_last_good(options.archive, options.config, options.state_dir)
    _say_done(options, sentence)


def password(options: argparse.Namespace) -> None:
    """Set the password that the box requires for its actions."""
    from opq_twisted.http.password import PasswordHash

    hashed = PasswordHash.of(password_prompt.read_new())
    files.write(options.file, f"{hashed}\n".encode(), 0o600)
    _say_done(
        options,
        f"The hash of the password is in {options.file}. Name that file as web_password_file in "
        "the box's configuration, and restart the agent.",
    )


def setup(options: argparse.Namespace) -> None:
    """Write the settings of this box into its configuration, and keep all others."""
    from opq_twisted.cli.box.check_config import all_warnings
    from opq_twisted.cli.box.setup import set_up

    given = {name: getattr(options, name) for name in ("name", "install", "channel", "services")}
    updater = {name: value for name, value in given.items() if value is not None}
    written = set_up(options.config, options.server, options.box_id, updater)
    warnings, found = all_warnings(written.config), written.config
    if options.json:
        say_json({"status": written.status, "box_id": found.box_id, "warnings": warnings})
        return
    say(written.status)
    say(f"{'updates_ep':10}  {found.updates_ep}")
    say(f"{'box_id':10}  {found.box_id}")
    for name in given:
        value = getattr(found.updater, name)
        if value:
            say(f"{name:10}  {value if isinstance(value, str) else ' '.join(value)}")
    _say_warnings(warnings)
    if written.next_step:
        say(written.next_step)


def config(options: argparse.Namespace) -> None:
    """Check a configuration without a restart of the agent, and print all settings."""
    from opq_twisted.cli.box import check_config

    found = check_config.check(options.file)
    settings, warnings = check_config.to_json(found), check_config.all_warnings(found)
    if options.json:
        say_json({**settings, "warnings": warnings})
        return
    say(f"The agent can use the configuration {options.file}, and reads it as:")
    for line in json.dumps(settings, indent=2, ensure_ascii=False).splitlines():
        say_line(line)
    _say_warnings(warnings)


def _say_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        say(f"Warning: {warning}")


def _agent(options: argparse.Namespace) -> AgentClient:
    file = getattr(options, "password_file", None)
    return AgentClient(options.url, partial(password_prompt.read_current, file))


def _say_done(options: argparse.Namespace, sentence: str) -> None:
    if options.json:
        say_json({"status": sentence})
    else:
        say(sentence)


def _show(found: Document) -> None:
    """Print a status for people."""
    attempt = found.part("last_attempt")
    message, stage = found.text("message"), found.text("stage")
    available = found.integer("available")
    is_of_attempt = message == attempt.text("reason")
    is_blocked = message.startswith(f"Release {available} is blocked: ")
    # Other rows say the same.
    is_said = is_of_attempt or message == f"Release {available} is available."
    if is_blocked and message.removeprefix(f"Release {available} is blocked: ") in attempt.text(
        "reason"
    ):
        message = f"Release {available} is blocked."
    if stage == Stage.FAILED and not is_of_attempt:
        # A check has found something since.
        stage = Stage.IDLE
    rows = [
        ("Box", _describe_box(found)),
        ("Installed", wording.version(found.integer("installed"))),
        ("Available", wording.version(available)),
        ("Stage", stage + _describe_progress(found.part("progress"))),
        ("", "" if is_said else message),
        ("Last check", wording.moment(found.number("last_check"), "not since the agent started")),
        ("Next check", wording.moment(found.number("next_check"))),
    ]
    if found.flag("update_available") and is_at_rest(found) and not found.text("trouble"):
        verb = "tries it again" if is_blocked else "installs it"
        rows[3:3] = [("What is new", found.lines("notes")), ("", f"opq-box update {verb}.")]
    if found.flag("unsigned"):
        rows.append(("Unsigned", "This box installs releases without checking who made them."))
    if attempt.content:
        rows.append(("Last update", _describe(attempt)))
    if fingerprint := found.text("fingerprint"):
        last_report = _describe_report(found.number("last_report"), found.text("report_answer"))
        rows += [("Fingerprint", fingerprint), ("Last report", last_report)]
    for name, text in rows:
        _say_row(name, text)


def _describe_report(sent: float | None, answer: str) -> str:
    return f"{wording.moment(sent, 'none since the agent started')}  {answer}".rstrip()


def _say_row(name: str, text: str) -> None:
    """Print a row of a table, unless its text is empty."""
    if text:
        say(f"{name:11}  {text}", indent=13)


def _describe_box(found: Document) -> str:
    """Return the name and the id of the box; empty for an agent that does not say them."""
    name, box_id = found.text("name"), found.integer("box_id")
    if box_id is None:
        return name
    return f"{name} (id {box_id})" if box_id else f"{name} (no box_id in its configuration)"


def _describe_progress(progress: Document) -> str:
    received, total = progress.number("received"), progress.number("total")
    if received is None:
        return ""
    rate, here = progress.number("rate") or 0, progress.number("here") or 0
    return f", {wording.download_progress(received, total, rate, here)}"


def _describe(attempt: Document) -> str:
    version, ended = attempt.integer("version"), attempt.number("ended")
    of_release = "" if version is None else f", release {wording.version(version)}"
    took = ""
    if ended is not None:
        took = f" in {wording.duration(ended - (attempt.number('started') or ended))}"
    outcome, reason = attempt.text("outcome"), attempt.text("reason")
    if reason == f"The box runs release {version}.":
        reason = ""
    fetched = _describe_fetched(attempt)
    return f"{wording.moment(ended)}  {outcome}{took}{of_release}.{fetched} {reason}".rstrip()


def _describe_fetched(attempt: Document) -> str:
    fetched, size = attempt.integer("fetched"), attempt.integer("size")
    if fetched is None:
        return ""
    rest = "" if size is None or fetched >= size else "; the rest was here already"
    return f" Fetched {wording.part_of(fetched, size)}{rest}."


def _start_and_follow(agent: AgentClient, as_json: bool) -> Document:
    """Start an update, print each status, and return the last one."""
    with StageDisplay() as display:
        agent.update()
        last = Document({})
        for found in statuses(agent, RetryTimer(time, warn if as_json else display.announce)):
            if found != last and as_json:
                say_json(found.content)
            elif found != last:
                display.show(found)
            last = found
            if is_at_rest(found):
                break
    return last


def _report_result(before: Document, last: Document, as_json: bool) -> None:
    """
    Print the result of an update.

    :param before: the last attempt before this one.
    :raises UpdateFailed: if the update did not bring the box to the new release.
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


def _release(text: str) -> int:
    try:
        return parse_version(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _box_id(text: str) -> int:
    """Read a number, or `auto` as 0."""
    if text == "auto":
        return 0
    # Larger numbers lose digits in other programs that read JSON (RFC 8259, section 6).
    if not re.fullmatch(r"[0-9]{1,16}", text) or not 0 < int(text) < 2**53:
        raise argparse.ArgumentTypeError(
            f"it must be auto, or a whole number from 1 to {2**53 - 1}, not {text[:40]!r}"
        )
    return int(text)


def make_parser() -> Parser:
    """Define the command line."""
    parser = Parser(
        prog="opq-box",
        description="Set up or maintain an OPQ box.",
        epilog="The exit code is 0 for success, 1 for a failure, and 2 for a wrong command line. "
        f"check ends with {_UPDATE_AVAILABLE} if there is an update. update ends with 0 if the box "
        "was updated or there was nothing to do, and with 1 if the update failed or the box went "
        f"back to its last good release. The environment variable {_URL_VARIABLE} is the default "
        "for --url.",
    )
    parser.add_version()
    commands = parser.add_commands()

    def add(name: str, command: Command) -> Parser:
        sub = add_command(commands, name, command)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if command not in (adopt, config, password, setup):
            sub.add_argument(
                "--url",
                default=os.environ.get(_URL_VARIABLE) or _URL,
                help=f"the URL of the box's agent (default: {_URL})",
            )
        if command in (check, update, unblock):
            sub.add_argument(
                "--password-file",
                type=Path,
                metavar="FILE",
                help="a file with the box's password (default: the command asks for it)",
            )
        return sub

    add("status", status)
    add("check", check)
    add("update", update)
    add("log", log).add_argument(
        "--follow", action="store_true", help="also print later output, until Ctrl-C"
    )
    add("history", history)
    add("report", report).add_argument(
        "--show", action="store_true", help="print the last report word for word"
    )
    add("forgive", unblock).add_argument(
        "release", type=_release, metavar="RELEASE", help="its version, as history shows it"
    )
    sub = add("adopt", adopt)
    _add_path(sub, "archive", "ARCHIVE", "an archive of build_update.py")
    _add_path(sub, "--config", "FILE", "the box's configuration", default=_CONFIG)
    _add_path(sub, "--state-dir", "DIR", "the agent's state directory", default=_STATE_DIR)
    # For install_update.sh.
    sub.add_argument("--unpacked", type=Path, help=argparse.SUPPRESS)
    sub = add("setup", setup)
    sub.add_argument("--server", metavar="URL", help="the URL of the update server")
    sub.add_argument(
        "--box-id",
        type=_box_id,
        metavar="auto|N",
        help="the number of this box; auto makes one from the machine's id (default: the one in "
        "the configuration, or auto if there is none)",
    )
    sub.add_argument("--name", metavar="TEXT", help="a name of this box for people")
    sub.add_argument(
        "--install",
        choices=("click", "automatic"),
        help="whether updates wait for a click on Update Box",
    )
    sub.add_argument("--channel", metavar="NAME", help="the channel of signed releases")
    sub.add_argument(
        "--services",
        nargs="*",
        metavar="UNIT",
        help="the units that must be active with a new release",
    )
    _add_path(sub, "--config", "FILE", "the box's configuration", default=_CONFIG)
    sub = add("config", config)
    _add_path(sub, "file", "FILE", "the configuration", nargs="?", default=_CONFIG)
    _add_path(add("password", password), "file", "FILE", "the file for the hash of the password")
    return parser


def _add_path(
    parser: argparse.ArgumentParser, name: str, metavar: str, meaning: str, **more: Any
) -> None:
    help_text = meaning + (" (default: %(default)s)" if "default" in more else "")
    parser.add_argument(name, type=Path, metavar=metavar, help=help_text, **more)


if __name__ == "__main__":
    sys.exit(main())
