"""The scenarios of the machine test, one function each."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opq_twisted.archive.name import UpdateName
from tests.vm import golden_image, invariants, package, silent_box
from tests.vm.box import AT_REST, BOOT, PREFIX, VmBox
from tests.vm.machine import BOOTS
from tests.vm.releases import COMPONENT, Change, altered
from tests.vm.report import Broken
from tests.vm.stages import Watch, durations

#: Seconds until a box must be at rest after an update, including a rollback.
UPDATE = 1500.0

#: Free MiB: too few for the archive; enough for the archive but not for its files.
_LEFT = (4, 40)
_REST = 64

#: The largest part of an archive that may travel if one file of a component has changed.
_DELTA = 0.1

#: Seconds from the version of the new release to that of an altered one.
_NEWER = 60


def update(box: VmBox) -> str:
    """A click updates the box, with a real reboot; only what changed travels."""
    version = box.prepared.new_version
    watch = Watch(box.machine)
    status = _update_to(box, box.prepared.new, version, watch)
    _must_run(box, status, version)
    attempt = status["last_attempt"]
    if attempt["fetched"] > attempt["size"] * _DELTA:
        raise Broken(f"Of {attempt['size']} bytes, {attempt['fetched']} travelled.")
    invariants.untroubled(box)
    box.shell.run("journalctl --unit opq-box-agent --lines 50 | grep 'Stage: idle'")
    took = durations(watch.seen)
    box.prepared.durations.write_text(json.dumps(took))
    return ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in took.items())


def stopping_installer(box: VmBox) -> str:
    """An installer that stops the agent's own unit still brings the box to the new release."""

    def change(folder: Path) -> None:
        script = folder / "install_update.sh"
        first, _, rest = script.read_text().partition("\n")
        script.write_text(f"{first}\nsystemctl stop opq-box-agent.service\n{rest}")

    version, archive = altered_release(box, change)
    status = _update_to(box, archive, version)
    _must_run(box, status, version, archive)
    return f"runs release {version}"


def crash_looping_daemon(box: VmBox) -> str:
    """The box goes back from a release whose daemon crashes."""

    return _is_taken_back(box, crash_loop, "is not healthy")


def lacking_package(box: VmBox) -> str:
    """A release without a package that its daemon needs is refused, and the page says why."""

    def change(folder: Path) -> None:
        for wheel in (folder / "wheels" / COMPONENT).iterdir():
            wheel.unlink()

    result = _is_taken_back(box, change, f"wheels/ lacks what {COMPONENT} needs on this machine")
    # The script stopped nothing; after that, the box installed the earlier release again.
    log = box.shell.run("sed '/^Going back to release/,$d' /var/log/opq/box_update.log")
    if "Stopping" in log:
        raise Broken(f"A service was stopped: {log}")
    return result


def broken_agent(box: VmBox) -> str:
    """The box goes back from a release whose agent does not start."""

    def change(folder: Path) -> None:
        # The install script runs --help only, which still works.
        service = folder / "box-configuration-daemon" / "opq_twisted" / "box" / "service.py"
        with service.open("a") as file:
            file.write('\n\ndef makeService(options):\n    raise SystemExit("made to fail")\n')

    if not box.shell.run("systemctl show --property OnFailure --value opq-box-agent").strip():
        raise Broken("The agent's unit has no OnFailure=: nothing would help the box.")
    result = _is_taken_back(box, change, "did not start")
    box.shell.run("journalctl --unit opq-box-rescue --lines 50")
    return result


def idle_agent(box: VmBox) -> str:
    """The box goes back from a release whose agent runs and does nothing."""

    def change(folder: Path) -> None:
        unit = folder / "box-configuration-daemon" / "systemd" / "opq-box-agent.service"
        text = re.sub(r"(?m)^(WatchdogSec|Type)=.*\n", "", unit.read_text())
        unit.write_text(re.sub(r"(?m)^ExecStart=.*", "ExecStart=/bin/sleep infinity", text))

    # The rescue's own timeout is four hours.
    script = f"{PREFIX}/rescue/opq-box-rescue"
    box.shell.run(f"sed -i 's/^PROGRESS_TIMEOUT=.*/PROGRESS_TIMEOUT=1/' {script}")
    version, archive = altered_release(box, change)
    box.publish(archive, version)
    before, shown = box.status(), len(box.machine.console)
    box.click()
    box.machine.says(BOOTS, UPDATE, after=shown)
    box.shell.ready(BOOT)
    box.shell.run("systemctl start opq-box-agent opq-box-rescue && sleep 2", seconds=BOOT)
    box.shell.run("systemctl is-active opq-box-agent")
    box.shell.run("systemctl start --no-block opq-box-rescue")
    return _must_be_taken_back(box, box.rests(before, UPDATE), version, archive, "did nothing")


def passing_verification(box: VmBox) -> str:
    """A release whose verify_update.sh succeeds is kept; the script sees the release's files."""

    def change(folder: Path) -> None:
        _write_script(folder / "verify_update.sh", "test -f install_update.sh")

    version, archive = altered_release(box, change)
    status = _update_to(box, archive, version)
    _must_run(box, status, version, archive)
    return f"runs release {version}"


def failing_verification(box: VmBox) -> str:
    """The box goes back from a release whose verify_update.sh fails."""

    def change(folder: Path) -> None:
        _write_script(folder / "verify_update.sh", "echo made to fail; exit 1")

    return _is_taken_back(box, change, "made to fail")


def full_disk(box: VmBox) -> str:
    """On a full disk the update fails with a sentence; with room it succeeds."""
    said = []
    for left in _LEFT:
        _fill(box, left)
        status = _update_to(box, box.prepared.new, box.prepared.new_version)
        _must_have_stayed(box, status)
        if not re.search(r"disk|room", status["message"]):
            raise Broken(f"With {left} MiB left the page says: {status['message']}")
        said.append(f"{left} MiB left: {status['message']}")
        _make_room(box)
    said.append(f"full while installing: {_fill_while_installing(box)}")
    status = _update_to(box, box.prepared.new, box.prepared.new_version)
    _must_run(box, status, box.prepared.new_version)
    return " ".join(said)


def _fill_while_installing(box: VmBox) -> str:
    """Fill the disk during the installation: with room again, the box goes back."""
    watch = Watch(box.machine)
    before, shown = box.status(), len(box.machine.console)
    box.click()
    watch.wait("installing", seconds=UPDATE)
    _fill(box, 1)
    box.machine.says("[Mm]ake room|disk is full", UPDATE, after=shown)
    _make_room(box)
    status = box.rests(before, UPDATE)
    _must_have_stayed(box, status)
    return str(status["message"])


def crash_loop(folder: Path) -> None:
    """Make the daemon of an unpacked release crash repeatedly."""
    (folder / COMPONENT / f"{COMPONENT}.py").write_text("import time\ntime.sleep(2)\nexit(1)\n")


def _write_script(path: Path, commands: str) -> None:
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)


#: The scenarios by their names on the command line.
SCENARIOS: dict[str, Callable[[VmBox], str]] = {
    "update": update,
    "stopping-installer": stopping_installer,
    "crash-looping-daemon": crash_looping_daemon,
    "lacking-package": lacking_package,
    "broken-agent": broken_agent,
    "idle-agent": idle_agent,
    "passing-verification": passing_verification,
    "failing-verification": failing_verification,
    "full-disk": full_disk,
    "golden-image": golden_image.golden_image,
    "server-package": package.lives,
    "silent-box": silent_box.holds_rollout,
}


def _update_to(
    box: VmBox, archive: Path, version: int, watch: Watch | None = None
) -> dict[str, Any]:
    """Offer a release, click, and wait until the box is at rest."""
    if not (box.updates / archive.name).exists():
        box.publish(archive, version)
    before = box.status()
    box.click()
    if watch is not None:
        watch.wait(*AT_REST, seconds=UPDATE)
    return box.rests(before, UPDATE)


def altered_release(box: VmBox, change: Change) -> tuple[int, Path]:
    """Make another release, which is newer than the good ones."""
    version = box.prepared.new_version + _NEWER
    return version, altered(box.prepared.new, version, box.folder, change)


def _is_taken_back(box: VmBox, change: Change, why: str) -> str:
    """
    Offer a bad release, and check that the box goes back from it and blocks it.

    :param why: a part of the reason on the page.
    """
    version, archive = altered_release(box, change)
    return _must_be_taken_back(box, _update_to(box, archive, version), version, archive, why)


def _must_be_taken_back(
    box: VmBox, status: dict[str, Any], version: int, archive: Path, why: str
) -> str:
    """Check that a box has gone back from a bad release, blocks it, and says why."""
    _must_have_stayed(box, status, archive)
    if why not in status["message"]:
        raise Broken(f"The box came back, and does not say {why!r}: {status['message']}")
    refused = [item["version"] for item in invariants.journal(box)["refused"]]
    if version not in refused:
        raise Broken(f"The box came back, and does not remember that {version} is bad.")
    return f"came back: {status['message']}"


def _must_run(box: VmBox, status: dict[str, Any], version: int, *others: Path) -> None:
    """Check that an update succeeded."""
    if status["stage"] != "idle":
        raise Broken(f"The box runs {status['installed']}, {status['stage']}: {status['message']}")
    _must_be_whole(box, status, version, others)


def _must_have_stayed(box: VmBox, status: dict[str, Any], *others: Path) -> None:
    """Check that the old release runs, and that the page shows a failed update."""
    if status["last_attempt"]["outcome"] == "updated":
        raise Broken(f"The page says that the update went well: {status['message']}")
    _must_be_whole(box, status, box.prepared.old_version, others)


def _must_be_whole(
    box: VmBox, status: dict[str, Any], version: int, others: Sequence[Path]
) -> None:
    if status["installed"] != version:
        raise Broken(f"The box runs {status['installed']}, {status['stage']}: {status['message']}")
    given = {UpdateName.parse(path.name).version: path for path in others}
    if invariants.whole(box, box.prepared.archives | given) != version:
        raise Broken(f"{PREFIX}/current is not {version}.")


def _fill(box: VmBox, left: int) -> None:
    """Fill the disk except for this many MiB, including the blocks reserved for root."""
    nearly_all = f"$(($(stat -f -c '%f * %S' /) - {_REST << 20}))"
    box.shell.run(f"fallocate -l {nearly_all} /filler")
    # The file system's own overhead is not known in advance.
    box.shell.run("dd if=/dev/zero of=/filler.rest bs=64K; sync")
    box.shell.run(f"truncate -s -{left}M /filler.rest && sync")


def _make_room(box: VmBox) -> None:
    box.shell.run("rm /filler /filler.rest && sync")
