"""install_update.sh changes nothing on a box that is not fit for the release."""

import shlex

from tests.helpers.root_folder import InstallCase, Result


class BoxFaultTests(InstallCase):
    """An unfit box keeps its release, and nothing remains of the new one."""

    def setUp(self) -> None:
        super().setUp()
        self.install(100)
        self.box.unpack(200)

    def assert_unfit(self, result: Result, sentence: str) -> None:
        """Assert that the script blames the box in its last line, and leaves no copy."""
        self.assertEqual(result.returncode, 75, result)
        self.assertIn(sentence, result.stderr.splitlines()[-1])
        self.assertEqual(self.box.state(), (100, None, {"100"}))

    def test_room_is_asked_for_first(self) -> None:
        """Without room for the release, nothing is copied."""
        self.box.tool("df", "#!/bin/sh\necho Avail\necho 20000\n")
        (self.box.folder / "opq-box-update-200" / "wheels").mkdir(exist_ok=True)
        (self.box.folder / "opq-box-update-200" / "wheels" / "big").write_bytes(bytes(4 << 20))
        self.assert_unfit(self.box.run(200), "MiB free under")
        (self.box.folder / "bin" / "df").unlink()
        self.box.install(200)

    def test_files_are_counted(self) -> None:
        """Without inodes for its files, nothing is copied."""
        self.box.tool("df", "#!/bin/sh\ncase $* in *iavail*) echo 3 ;; *) echo 999999 ;; esac\n")
        self.assert_unfit(self.box.run(200), "and there is room for 3. Remove some.")

    def test_nothing_can_be_written(self) -> None:
        """If nothing can be written, the box is at fault."""
        self.box.tool("head", "#!/bin/sh\necho 'head: x: No space left on device' >&2\nexit 1\n")
        self.assert_unfit(self.box.run(200), f"cannot write in {self.box.prefix}: No space left")

    def test_nothing_can_be_run(self) -> None:
        """If programs cannot be run, the box is at fault."""
        self.box.tool("chmod", '#!/bin/sh\nexec /bin/chmod 600 "$2"\n')
        self.assert_unfit(self.box.run(200), "Mount it without noexec.")

    def test_disk_fills_up(self) -> None:
        """If a copy fills the disk, that is found before the copy is removed."""
        self.box.tool("cp", '#!/bin/sh\necho half >"$3"; exit 1\n')
        self.box.tool(
            "head",
            f"#!/bin/sh\n[ ! -e {shlex.quote(str(self.box.prefix))}/releases/200 ] || "
            "{ echo 'head: x: No space left on device' >&2; exit 1; }\n",
        )
        self.assert_unfit(self.box.run(200), "No space left on device. Fix that")

    def test_python_is_gone(self) -> None:
        """If the box's Python cannot make a virtual environment, the box is at fault."""
        (self.box.folder / "opq-box-update-200" / "wheels").mkdir(exist_ok=True)
        self.assert_unfit(self.box.run(200, OPQ_PYTHON="/gone/python3"), "install Python 3.11")

    def test_unfinished_are_removed(self) -> None:
        """The remains of another release are removed before the room is checked."""
        (self.box.prefix / "releases" / "150").mkdir()
        self.assertIn("Removing 150, which was not finished.", self.box.install(200))
        self.assertEqual(self.box.state(), (200, 100, {"100", "200"}))
