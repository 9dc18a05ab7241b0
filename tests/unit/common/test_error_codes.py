"""Every error that can end an attempt to update has a code for reports."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted import archive, trust
from opq_twisted.archive import extract
from opq_twisted.box import download, install, network, offers, state, update
from opq_twisted.box.update.reporting import RELEASE_AT_FAULT as BLOCKING
from opq_twisted.common import errors
from opq_twisted.common.errors import CannotStart, OpqError
from opq_twisted.report.codes import RELEASE_AT_FAULT, Reason

#: The code of each error that can end an attempt.
CODES = {
    "AgentUnfit": "agent-again",
    "ArchiveLost": "disk",
    "ArchiveRefused": "archive",
    "BoxAtFault": "disk",
    "BoxUnfit": "disk",
    "BrokenOff": "download",
    "ClockBehind": "clock",
    "DownloadFailed": "download",
    "FellOver": "fell-over",
    "InstallFailed": "install-status",
    "InstallInterrupted": "interrupted",
    "InstallTimedOut": "install-timeout",
    "Interrupted": "interrupted",
    "NoKnownGoodRelease": "no-way-back",
    "NoRoom": "no-room",
    "NoWaiting": "server",
    "NotInstalled": "not-installed",
    "NotStarted": "busy",
    "OlderCopy": "server",
    "RebootFailed": "reboot",
    "RollbackFailed": "return-failed",
    "ServerFailed": "server",
    "ServiceUnhealthy": "unhealthy-service",
    "Stale": "stale",
    "TooLong": "content",
    "UnsignedRefused": "untrusted",
    "Untrusted": "untrusted",
    "VerifyFailed": "unhealthy-verify",
    "WrongContent": "content",
    "WronglyJoined": "content",
}

#: The errors that these modules make besides, and that never end an attempt.
OTHERS = {
    # They are caught, or the agent does not start.
    *("CannotStart", "InvalidName", "NoIndex", "UpdateInProgress"),
    # Only programs that build, sign or serve releases raise them.
    *("BuildFailed", "KeyUnusable", "ReleaseFailed"),
}

#: The errors with which the box itself blocks a release, but whose code does not count against it:
#: somebody may have pulled the plug.
EXCUSED = {"InstallInterrupted"}


def modules() -> Iterator[ModuleType]:
    """Give the modules that take part in an update."""
    for package in (download, install, network, offers, state, update, archive, extract, trust):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(info.name)


def made_in(module: ModuleType) -> set[type[OpqError]]:
    """Return the errors that a module makes: those that it calls, or chooses from."""
    assert module.__file__ is not None
    with open(module.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    used = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            used += [node.body, node.orelse]
        elif isinstance(node, ast.Raise) and node.exc is not None:
            used.append(node.exc)
    found = [getattr(module, node.id, None) for node in used if isinstance(node, ast.Name)]
    return {each for each in found if isinstance(each, type) and issubclass(each, OpqError)}


class CodeTests(SynchronousTestCase):
    """The codes of the errors."""

    def test_each_class(self) -> None:
        """The code of each class is that of a reason."""
        reasons = {reason.value for reason in Reason}
        for kind in vars(errors).values():
            if isinstance(kind, type) and issubclass(kind, OpqError) and kind is not CannotStart:
                self.assertIn(kind.code, reasons, kind)

    def test_each_raise(self) -> None:
        """Each error that a module of an update makes has its code, or ends no attempt."""
        made = {kind.__name__: kind for module in modules() for kind in made_in(module)}
        self.assertEqual(set(made) - OTHERS, set(CODES))
        for name, code in CODES.items():
            self.assertEqual(made[name].code, code, name)

    def test_each_reason(self) -> None:
        """Each reason is the code of an error, except for those that need none."""
        codes = {*CODES.values(), OpqError.code}
        self.assertEqual({reason.value for reason in Reason} - codes, {"rescued"})

    def test_to_blame(self) -> None:
        """An error blocks a release on the box if its code counts against it, and only then."""
        blamed = set(map(str, RELEASE_AT_FAULT))
        for name, code in CODES.items():
            blocks = issubclass(getattr(errors, name, OpqError), BLOCKING)
            self.assertEqual(blocks, code in blamed or name in EXCUSED, name)

    def test_of_the_box(self) -> None:
        """An error of the box has the code of what it lacks."""
        self.assertEqual(errors.BoxUnfit("Make room.", room=1, code="no-room").code, "no-room")
        self.assertEqual(errors.BoxAtFault("Wait.", touched=True, code="busy").code, "busy")
