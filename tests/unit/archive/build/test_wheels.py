"""The wheels in an update have known hashes."""

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from zipfile import ZipFile

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.build import wheels
from opq_twisted.archive.build.components import AGENT
from opq_twisted.archive.build.contents import Contents, gather
from opq_twisted.archive.build.wheels import fetch_wheels
from opq_twisted.common.errors import BuildFailed
from tests.helpers import forked_python


def run_pip(
    command: Sequence[str], env: Mapping[str, str], **_: object
) -> "subprocess.CompletedProcess[str]":
    """Run the real pip; to import its modules would take longer than its work."""
    pip = command.index("pip")
    modules = ("pip._internal.cli.main", "pip._internal.commands.download")
    return forked_python.run("pip", command[pip + 1 :], env, *modules)


class WheelsCase(SynchronousTestCase):
    """A component with requirements, and an index that is a folder."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.agent = self.component = self.folder / "component"
        self.index = self.folder / "index"
        self.fetched = self.folder / "fetched"
        for folder in (self.component, self.index, self.fetched):
            folder.mkdir(parents=True)
        pip = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            self.addCleanup(os.environ.__setitem__, name, os.environ.pop(name))
        for name, value in pip.items():
            os.environ[name] = value
            self.addCleanup(os.environ.pop, name)
        self.patch(wheels, "subprocess", SimpleNamespace(run=run_pip))
        self.pip_lock = self.lock("pip.lock", self.wheel("pip-1"))

    def wheel(self, name: str, *needs: str, content: str = "", tag: str = "py3-none-any") -> Path:
        """Make a wheel `NAME-VERSION` or `NAME-VERSION-BUILD` in the index."""
        project, version = name.split("-")[:2]
        path = self.index / f"{name}-{tag}.whl"
        metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        with ZipFile(path, "w") as wheel:
            info = f"{project}-{version}.dist-info"
            requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
            wheel.writestr(f"{info}/METADATA", metadata + requires)
            wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
            wheel.writestr(f"{project}.py", content)
        return path

    def lock(self, file: str, *wheels: Path) -> Path:
        """Write a lock file with versions and hashes."""
        hashes: dict[str, str] = {}
        for wheel in wheels:
            package = "==".join(wheel.name.split("-")[:2])
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            hashes[package] = f"{hashes.get(package, package)} --hash=sha256:{digest}"
        path = self.component / file
        path.write_text("\n".join(hashes.values()))
        return path

    def require(self, text: str) -> None:
        """Write the component's requirements.txt."""
        (self.component / "requirements.txt").write_text(text)

    def fetch(
        self,
        platforms: Sequence[str] = (),
        versions: Sequence[str] = (),
        others: Mapping[str, Path] = MappingProxyType({}),
    ) -> list[str]:
        """Fetch the wheels of other components, and those of the agent; return their names."""
        contents: Contents = {}
        for name, folder in {**others, AGENT: self.agent}.items():
            contents |= gather(folder, name)
        fetch_wheels(contents, self.fetched, self.pip_lock, platforms, versions)
        wheels = self.fetched.rglob("*.whl")
        return sorted(str(path.relative_to(self.fetched)) for path in wheels)

    def assert_refused(self, *words: str) -> None:
        """The error is one sentence with these words."""
        sentence = str(self.assertRaises(BuildFailed, self.fetch))
        self.assertNotIn("\n", sentence)
        for word in words:
            self.assertIn(word, sentence)


class HashTests(WheelsCase):
    """The hashes in a requirements.lock."""

    def test_known(self) -> None:
        """Files with known hashes are fetched, not newer versions, and pip for the box."""
        self.require("probe[more]>=1\n")
        probe = self.wheel("probe-1", "extra[more]>=2")
        self.lock("requirements.lock", probe, self.wheel("extra-3"))
        for newer in ("probe-2", "extra-4"):
            self.wheel(newer)
        self.assertEqual(
            self.fetch(), [f"{each}-py3-none-any.whl" for each in ("extra-3", "pip-1", "probe-1")]
        )

    def test_another_file_of_the_version(self) -> None:
        """A file that was added to a version later, which pip prefers, is refused by name."""
        self.require("probe\n")
        self.lock("requirements.lock", self.wheel("probe-1"))
        self.wheel("probe-1-1", content="print('owned')")
        self.assert_refused(
            "probe-1-1-py3-none-any.whl", "probe==1", "changed", "nothing was built"
        )

    def test_changed_file(self) -> None:
        """A file that was changed is refused, even if only another package needs it."""
        self.require("probe\n")
        other = self.wheel("other-1")
        lock = self.lock("requirements.lock", self.wheel("probe-1", "other"), other)
        self.wheel("other-1", content="print('owned')")
        self.assert_refused("other-1-py3-none-any.whl", "for other==1,", "changed")
        lock.write_text(lock.read_text().replace("other==1", "other==1 ; python_version > '3'"))
        self.assert_refused("other-1-py3-none-any.whl", "for other==1,", "changed")

    def test_changed_pip(self) -> None:
        """The pip with which a box installs the packages must have a known hash."""
        self.require("probe\n")
        self.lock("requirements.lock", self.wheel("probe-1"))
        self.wheel("pip-1", content="print('owned')")
        self.assert_refused("pip-1-py3-none-any.whl", "changed")

    def test_no_lock(self) -> None:
        """Packages without hashes are not fetched, whether their versions are pinned or not."""
        self.wheel("probe-1")
        for requirement in ("probe", "probe==1", f"probe @ file://{self.index}"):
            self.require(f"{requirement}\n")
            self.assert_refused("probe", "hash", "requirements.lock", "--no-wheels")

    def test_old_lock(self) -> None:
        """New packages in requirements.txt, and dependencies, must be in the lock."""
        self.require("probe\nother\n")
        self.lock("requirements.lock", self.wheel("probe-1"))
        self.wheel("other-1")
        self.assert_refused("requirements.lock", "other", "--no-wheels")
        self.require("probe\n")
        self.lock("requirements.lock", self.wheel("probe-1", "other>=1"))
        self.assert_refused("requirements.lock", "other>=1", "--no-wheels")
        self.require("probe>1\n")
        self.lock("requirements.lock", self.wheel("probe-1"))
        self.wheel("probe-2")
        self.assert_refused("requirements.lock", "probe>1", "--no-wheels")

    def test_hashes_in_the_requirements(self) -> None:
        """A requirements.txt with hashes needs no lock file."""
        self.lock("requirements.txt", self.wheel("probe-1"))
        self.assertEqual(self.fetch(), ["pip-1-py3-none-any.whl", "probe-1-py3-none-any.whl"])


class ComponentTests(WheelsCase):
    """The packages of a component beside the agent."""

    def setUp(self) -> None:
        super().setUp()
        self.lock("requirements.txt", self.wheel("probe-1"))
        self.component = self.folder / "mysensor"
        self.component.mkdir()

    def assert_component_refused(self, *words: str) -> None:
        """The component is refused with a sentence."""
        others = {"mysensor": self.component}
        with redirect_stderr(StringIO()):
            sentence = str(self.assertRaises(BuildFailed, self.fetch, others=others))
        self.assertNotIn("\n", sentence)
        for word in words:
            self.assertIn(word, sentence)

    def test_folders(self) -> None:
        """
        The wheels of each component are in a folder of their own, and may have other versions.

        Without hashes the index decides, dependencies included, and the builder says so.
        """
        self.lock("requirements.txt", self.wheel("probe-2"))
        camera = self.folder / "camera"
        camera.mkdir()
        (camera / "requirements.txt").write_text("probe\n")
        self.wheel("probe-3", "other")
        self.wheel("other-1")
        with redirect_stderr(StringIO()) as printed:
            wheels = self.fetch(others={"mysensor": self.component, "camera": camera})
        names = ("camera/other-1", "camera/probe-3", "mysensor/probe-2", "pip-1", "probe-1")
        self.assertEqual(wheels, [f"{name}-py3-none-any.whl" for name in names])
        self.assertRegex(printed.getvalue(), r"\Acamera/requirements.txt has no hashes, [^\n]+\n\Z")

    def test_changed_file(self) -> None:
        """A component with hashes gets no other file."""
        self.lock("requirements.txt", self.wheel("other-1"))
        self.wheel("other-1", content="print('owned')")
        self.assert_component_refused("other-1-py3-none-any.whl", "changed", "nothing was built")

    def test_no_wheel(self) -> None:
        """A package without a wheel is named, also if another package needs it."""
        self.require("absent==1\n")
        self.assert_component_refused(
            "no wheel of absent==1, which mysensor needs, for this machine"
        )
        self.require("other\n")
        self.wheel("other-1", "absent")
        self.assert_component_refused("no wheel of absent, which mysensor needs")

    def test_address(self) -> None:
        """A package at an address is refused, because a box has no internet."""
        for address in (
            "x @ https://example.org/x-1-py3-none-any.whl",
            "./x",
            "-e .",
            "git+ssh://x",
        ):
            self.require(f"# see https://example.org\n--index-url http://x/\n{address}\n")
            self.assert_component_refused(
                f"mysensor/requirements.txt asks for {address}, which a box"
            )


class TargetTests(WheelsCase):
    """Wheels for other machines than this one."""

    def test_several(self) -> None:
        """Wheels are fetched for each version of Python, and for each machine."""
        self.require("x\n")
        machines = ("manylinux2014_aarch64", "manylinux_2_28_aarch64", "linux_armv7l")
        tags = [
            f"cp3{minor}-cp3{minor}-{machine}" for minor in (11, 13, 14) for machine in machines
        ]
        # The first of two names for one machine has no wheel for one of the versions.
        tags.remove("cp313-cp313-manylinux2014_aarch64")
        self.lock("requirements.lock", *(self.wheel("x-1", tag=tag) for tag in tags))
        self.assertEqual(
            self.fetch(machines, ("3.11", "3.13")),
            [
                "pip-1-py3-none-any.whl",
                "x-1-cp311-cp311-linux_armv7l.whl",
                "x-1-cp311-cp311-manylinux2014_aarch64.whl",
                "x-1-cp313-cp313-linux_armv7l.whl",
                "x-1-cp313-cp313-manylinux_2_28_aarch64.whl",
            ],
        )

    def test_lacking(self) -> None:
        """The error names the machine and the version of Python without a wheel."""
        self.require("x\n")
        self.lock("requirements.lock", self.wheel("x-1", tag="cp311-cp311-manylinux2014_aarch64"))
        error = self.assertRaises(BuildFailed, self.fetch, ["linux_armv7l"], ["3.11"])
        words = f"x==1, which {AGENT} needs, for Python 3.11 on the platform linux_armv7l: "
        self.assertIn(f"There is no wheel of {words}", str(error))
