"""install_update.sh gives a box its trusted root."""

from tests.helpers.root_folder import InstallCase, executable


class TrustedRootTests(InstallCase):
    """A box without a root gets that of the update, and keeps it."""

    def test_first_root(self) -> None:
        """A box without a root gets that of the update, readable by all; no release keeps one."""
        root = self.box.unpack(100) / "root.json"
        root.write_text("new")
        root.chmod(0o700)
        said = self.box.install(100, managed=True)
        self.assertIn("Wrote the trusted root to /etc/opq/root.json", said)
        self.assertEqual(self.box.root.read_text(), "new")
        self.assertEqual(self.box.root.stat().st_mode & 0o7777, 0o644)
        self.assertFalse(self.box.root.is_symlink())
        self.assertEqual(
            {path.name for path in self.box.root.parent.iterdir()},
            {"opqbox_config.json", "root.json"},
        )
        self.assertEqual(list(self.box.prefix.rglob("root.json")), [])

    def test_before_the_switch(self) -> None:
        """The root is installed before the release is current, after all steps that may fail."""
        (self.box.unpack(100) / "root.json").write_text("new")
        executable(
            self.box.folder / "opq-box-update-100" / "kernel" / "install.sh", "#!/bin/sh\nexit 3\n"
        )
        refused = self.box.run(100, managed=True)
        self.assertIn("kernel/install.sh failed", refused.stdout)
        self.assertFalse(self.box.root.exists())
        (self.box.folder / "opq-box-update-100" / "kernel" / "install.sh").unlink()
        said = self.box.install(100, managed=True)
        put, enabled, live = map(
            said.index, ("Wrote the trusted root", "Enabling", "Release 100 is now current.")
        )
        self.assertTrue(enabled < put < live, said)

    def test_cut_short(self) -> None:
        """A partly copied root does not count, and the next run installs a complete one."""
        (self.box.unpack(100) / "root.json").write_text("new")
        self.box.tool("install", '#!/bin/sh\necho half >"$4"\nkill -9 0\n')
        self.assertNotEqual(self.box.run(100, managed=True).returncode, 0)
        self.assertFalse(self.box.root.exists())
        (self.box.folder / "bin" / "install").unlink()
        self.box.boot()
        self.assertEqual(self.box.root.read_text(), "new")

    def test_reinstall(self) -> None:
        """A box whose root was lost gets it again by a reinstall."""
        (self.box.unpack(100) / "root.json").write_text("new")
        self.box.install(100, managed=True)
        self.box.root.unlink()
        self.assertIn("keeping it", self.box.install(100, managed=True))
        self.assertEqual(self.box.root.read_text(), "new")

    def test_kept(self) -> None:
        """An existing root is never replaced, even if it is empty, a folder, or a dangling link."""
        (self.box.unpack(100) / "root.json").write_text("new")
        root = self.box.root
        root.parent.mkdir()
        for make, is_as_before in (
            (lambda: root.write_text("mine"), lambda: root.read_text() == "mine"),
            (lambda: root.write_text(""), lambda: root.read_text() == ""),
            (lambda: root.symlink_to("gone"), lambda: str(root.readlink()) == "gone"),
        ):
            make()
            self.assertNotIn("trusted root", self.box.install(100, managed=True))
            self.assertTrue(is_as_before())
            self.assertFalse(root.with_name("gone").exists())
            root.unlink()
        root.mkdir()
        self.box.install(100, managed=True)
        self.assertEqual(list(root.iterdir()), [])

    def test_no_root(self) -> None:
        """An update without a root leaves a box without one."""
        self.assertNotIn("trusted root", self.install(100, managed=True))
        self.assertFalse(self.box.root.exists())
