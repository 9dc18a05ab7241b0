"""install_update.sh installs components of any name, with their Python packages."""

from tests.helpers.root_folder import PYTHON, InstallCase, executable

#: Stands in for Python, as before, and fails when it installs the packages of the camera.
LACKING = PYTHON.replace(
    '    *) echo "$0"', '    *" camera/requirements.txt"*) exit 1 ;;\n    *) echo "$0"'
)


class OrderTests(InstallCase):
    """The order of the components' scripts."""

    def test_names(self) -> None:
        """The scripts run in the order of the components' names."""
        update = self.box.unpack(100)
        names = ("10-bus", "Camera", "kernel", "kernel-2", "kernel.3", "mysensor")
        for name in reversed(names):
            executable(update / name / "install.sh", "#!/bin/sh\n")
        check = self.box.type(100, "--check", managed=True).stdout
        wanted = [f"{name}/install.sh would be run." for name in names]
        self.assertEqual([line for line in check.splitlines() if "would be run" in line], wanted)
        said = self.box.install(100, managed=True)
        wanted = [f"Running {name}/install.sh." for name in names]
        self.assertEqual([line for line in said.splitlines() if "Running" in line], wanted)


class PackagesTests(InstallCase):
    """The Python packages of a component."""

    def setUp(self) -> None:
        super().setUp()
        for version in (100, 200):
            update = self.box.unpack(version)
            for name in ("camera", "kernel"):
                (update / name).mkdir()
            (update / "camera" / "requirements.txt").write_text("pyserial\n")
            (update / "wheels" / "x-1-cp313-cp313-linux_aarch64.whl").touch()
        self.current = self.box.prefix / "current"

    def test_own_environment(self) -> None:
        """They are installed from the component's wheels, for each version of Python."""
        said = self.box.install(100)
        venv = self.box.prefix / "releases" / "100" / "camera" / "venv"
        options = "--find-links wheels/camera --no-cache-dir --no-compile --requirement camera/"
        self.assertIn(f"{venv}/bin/python -I wheels/pip-*.whl/pip ", said)
        self.assertIn(options, said)
        self.assertTrue((venv / "lib" / "python3.13" / "site-packages").is_dir())
        self.assertTrue((self.current / "venv" / "bin" / "twistd").exists())
        self.assertFalse((self.current / "kernel" / "venv").exists())

    def test_lacking(self) -> None:
        """If a wheel is lacking, the release is refused by a sentence with the component's name."""
        self.box.install(100)
        self.box.tool("python", LACKING)
        self.assert_refused(
            self.box.run(200), "wheels/ lacks what camera needs on this machine: build the update"
        )
        self.assertEqual(self.box.state(), (100, None, {"100"}))
        check = self.box.type(200, "--check")
        self.assert_refused(check, "wheels/ lacks what camera needs on this machine")

    def test_without_wheels(self) -> None:
        """An update without wheels makes the environment with the machine's packages."""
        wheels = self.box.folder / "opq-box-update-100" / "wheels"
        for wheel in wheels.iterdir():
            wheel.unlink()
        wheels.rmdir()
        self.box.install(100)
        self.assertTrue((self.current / "camera" / "venv" / "bin" / "python").exists())
        self.assertFalse((self.current / "venv").exists())
