"""The shell scripts refuse unknown arguments before they do anything."""

import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.helpers.project import PROJECT

DEPLOYED = PROJECT / "deploy"
SCRIPTS = {
    "box/golden-image": (
        ("--now",),
        ("/mnt", "more"),
        ("--first-boot", "/mnt"),
        ("--keep-wifi", "-x"),
    ),
    "box/rescue/opq-box-rescue": (("--now",), ("missing",), ("--help", "me")),
    "box/rescue/place": (("--missing",), ("all",), ("missing", "all")),
    "server/build-deb": (("--output",), ("dist", "more")),
    "server/docker-run.sh": (("--port", "8151"), ("8151", "/", "key", "secret", "more")),
}


def run(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # Without a PATH it finds no program with which it could do something.
    return subprocess.run(
        ["/bin/sh", DEPLOYED / script, *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/nonexistent"},
    )


class ArgumentTests(SynchronousTestCase):
    """The arguments of a script."""

    def test_refused(self) -> None:
        """An unknown argument is refused with a sentence."""
        for script, wrong in SCRIPTS.items():
            for arguments in wrong:
                result = run(script, *arguments)
                self.assertEqual((result.returncode, result.stdout), (2, ""), (script, arguments))
                self.assertTrue(result.stderr.endswith(f": {' '.join(arguments)}\n"), result.stderr)
                self.assertEqual(result.stderr.count("\n"), 1)

    def test_help(self) -> None:
        """The help is the beginning of the script."""
        for script in SCRIPTS:
            result = subprocess.run(
                ["/bin/sh", DEPLOYED / script, "--help"], capture_output=True, text=True
            )
            first = (DEPLOYED / script).read_text().splitlines()[1].removeprefix("# ")
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertTrue(result.stdout.startswith(f"{first}\n"), result.stdout)
