"""The commands of `opq-box`: each asks the agent, or changes a file, and prints the result."""

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial

from opq_twisted.cli.box import describe, password_prompt
from opq_twisted.cli.box.agent_client import AgentClient
from opq_twisted.cli.box.follow import RetryTimer, log_lines, statuses
from opq_twisted.cli.box.progress import StageDisplay, is_at_rest
from opq_twisted.cli.program import say, say_json, say_line, warn
from opq_twisted.cli.untrusted_json import Document
from opq_twisted.common import files, wording
from opq_twisted.common.errors import UpdateFailed

_NO_REPORTS = "none: this box sends no reports"

#: Exit code of `check`.
UPDATE_AVAILABLE = 10


def status(options: argparse.Namespace) -> None:
    """Show the state of the box."""
    found = _agent(options).status()
    if options.json:
        say_json(found.content)
    else:
        for name, text in describe.status(found):
            _say_row(name, text)


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
    return UPDATE_AVAILABLE if is_available else 0


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
        say(describe.attempt(attempt), indent=2)
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
        _say_row("Last report", describe.report(last.number("sent"), last.text("answer")))


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
    from opq_twisted.http.guards.password import PasswordHash

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


def _say_row(name: str, text: str) -> None:
    """Print a row of a table, unless its text is empty."""
    if text:
        say(f"{name:11}  {text}", indent=13)


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
