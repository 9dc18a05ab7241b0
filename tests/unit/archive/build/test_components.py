"""The names of components, and what they must not have in common."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.build.components import AGENT, check_components, component_folders
from opq_twisted.archive.build.contents import Contents, File
from opq_twisted.common.errors import BuildFailed

FILE = File(Path("file"), 1, 0, is_executable=False)


class NameTests(SynchronousTestCase):
    """The names on the command line."""

    def test_any_name(self) -> None:
        """A component has any name of letters, digits and a few other characters."""
        names = ("mysensor", AGENT, "kernel", "2-Camera_v1.5", "x" * 64)
        folders = component_folders([f"{name}=a/b=c" for name in names])
        self.assertEqual(folders, dict.fromkeys(names, Path("a/b=c")))

    def test_impossible(self) -> None:
        """Another name is refused with a sentence."""
        odd = ("-x", ".x", "_x", "a/b", "..", "ä", "a b", "a\n", "x" * 65, "pip-1-any.whl", "a:b")
        taken = ("wheels", "Wheels", "VERSION", "version", "root.json", "venv", "install_update.sh")
        for name in (*odd, *taken, "verify_update.sh"):
            words = "uses it itself" if name in (*taken, "verify_update.sh") else "that begin with"
            self.assert_refused(f"{name}=DIR", words=words)

    def test_not_like_that(self) -> None:
        """What is no name and folder is refused."""
        for option in ("kernel", "kernel=", "=DIR", ""):
            self.assert_refused(option, words="is not NAME=DIR")

    def test_two(self) -> None:
        """A name is given once, whatever its case."""
        self.assert_refused("kernel=a", "kernel=b", words="kernel is given twice")
        self.assert_refused("camera=a", "Camera=a", words="camera and Camera differ only in")

    def assert_refused(self, *options: str, words: str) -> None:
        """The options are refused with one sentence."""
        sentence = str(self.assertRaises(BuildFailed, component_folders, options))
        self.assertIn(words, sentence)
        self.assertNotIn("\n", sentence)


class FolderTests(SynchronousTestCase):
    """The components' folders."""

    def test_units(self) -> None:
        """Two components cannot have a unit of one name; other files may have the same name."""
        contents: Contents = dict.fromkeys(
            ("a/systemd/x.service", "b/systemd/y.service", "b/systemd/x.timer", "b/x.service"), FILE
        )
        check_components(contents | {"b/old/systemd/x.service": FILE})
        contents["b/systemd/x.service"] = FILE
        error = self.assertRaises(BuildFailed, check_components, contents)
        self.assertIn("a and b both have the unit x.service", str(error))

    def test_environment(self) -> None:
        """The folder that a box makes for a component's packages must not be there yet."""
        contents: Contents = {"a/venv": None, f"{AGENT}/requirements.txt": FILE}
        check_components(contents)
        contents["a/requirements.txt"] = FILE
        error = self.assertRaises(BuildFailed, check_components, contents)
        self.assertIn("a/venv is where a box makes", str(error))
