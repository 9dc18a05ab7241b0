"""The files that `make lock` writes agree with each other, and hold all hashes."""

import re
import tomllib
from importlib.metadata import requires, version
from unittest import SkipTest

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from twisted.trial.unittest import SynchronousTestCase

from tests.helpers.project import PROJECT

LOCKS = (
    "requirements.lock",
    "requirements-fleet.lock",
    "requirements-pip.lock",
    "requirements-build.lock",
    "requirements-sbom.lock",
)

#: Where packages are installed for others than developers.
INSTALLERS = (
    *("README.md", "docs/operating-a-server.md", "docs/releasing.md"),
    *("deploy/server/Dockerfile", "deploy/server/debian/rules"),
)


def read(name: str) -> str:
    """Read a file, with its continued lines as one."""
    return (PROJECT / name).read_text(encoding="utf-8").replace("\\\n", " ")


def pins(name: str) -> dict[str, str]:
    """Give the versions in a file by their packages."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", read(name), re.M)
    return {canonicalize_name(package): version for package, version in found}


def requirements(name: str) -> list[Requirement]:
    """Read a requirements.txt."""
    return [Requirement(line) for line in read(name).splitlines() if not line.startswith("#")]


class LockTests(SynchronousTestCase):
    """What the files say."""

    def test_versions(self) -> None:
        """The versions are those in constraints.txt, with which the tests run."""
        constraints = pins("constraints.txt")
        for name in LOCKS:
            locked = pins(name)
            self.assertNotEqual(locked, {})
            for package, pinned in locked.items():
                self.assertEqual(constraints.get(package), pinned, f"{package}: run make lock")

    def test_oldest(self) -> None:
        """constraints-oldest.txt has the lower bound of each requirement."""
        oldest = pins("constraints-oldest.txt")
        for requirement in (
            *requirements("requirements.txt"),
            *requirements("requirements-fleet.txt"),
        ):
            [bound] = requirement.specifier
            self.assertEqual(bound.operator, ">=")
            pinned = Version(oldest[canonicalize_name(requirement.name)])
            self.assertEqual(pinned, Version(bound.version), f"{requirement}: run make lock")

    def test_requirements(self) -> None:
        """They are versions that the project asks for."""
        build = tomllib.loads(read("pyproject.toml"))["build-system"]["requires"]
        asked = {
            "requirements.lock": requirements("requirements.txt"),
            "requirements-fleet.lock": requirements("requirements-fleet.txt"),
            "requirements-build.lock": [Requirement(text) for text in build],
            "requirements-pip.lock": [Requirement("pip")],
            "requirements-sbom.lock": [Requirement("cyclonedx-bom")],
        }
        for name in LOCKS:
            for requirement in asked[name]:
                version = pins(name).get(canonicalize_name(requirement.name))
                self.assertIsNotNone(version, f"{requirement}: run make lock")
                self.assertIn(version, requirement.specifier, f"{requirement}: run make lock")

    def test_complete(self) -> None:
        """Whatever a package needs is in the file with it."""
        locked = pins("requirements.lock")
        installed = {package: version(package) for package in locked}
        if installed != locked:
            raise SkipTest("these are not the locked versions, as in `make test-oldest`")
        extras: dict[str, set[str]] = {
            canonicalize_name(each.name): each.extras
            for each in requirements("requirements.txt")
            if each.extras
        }
        for package in locked:
            for text in requires(package) or []:
                needed = Requirement(text)
                if needed.marker is None or any(
                    needed.marker.evaluate({"extra": extra}) for extra in extras.get(package, {""})
                ):
                    self.assertIn(canonicalize_name(needed.name), locked, f"{package}: {needed}")

    def test_hashes(self) -> None:
        """Each package has hashes, and nothing has to be built, with tools that have none."""
        for name in LOCKS:
            packages = [line for line in read(name).splitlines() if "==" in line.split("--")[0]]
            self.assertEqual(len(packages), len(pins(name)))
            for line in packages:
                self.assertRegex(line, r"( +--hash=sha256:[0-9a-f]{64})+$")
            self.assertIn("\n--only-binary :all:\n", read(name))

    def test_any_index(self) -> None:
        """No index is named: the files may come from any that has them."""
        for name in (*LOCKS, "constraints.txt", "constraints-oldest.txt"):
            self.assertNotRegex(read(name), "://|index-url|find-links|trusted-host")

    def test_any_python(self) -> None:
        """The packages are the same for all Pythons: pip asks only the one that it runs on."""
        # The image has one Python, and boxes need no fleet.
        for name in set(LOCKS) - {"requirements-sbom.lock", "requirements-fleet.lock"}:
            self.assertNotRegex(read(name), "python_version|python_full_version|platform_machine")


class InstallerTests(SynchronousTestCase):
    """What the manuals, the container image and the Debian package install."""

    def test_hashes(self) -> None:
        """Pip fetches nothing without a hash, what the project is built with included."""
        for name in INSTALLERS:
            commands = re.findall(r"\bpip(?: --python \S+)? (?:install|wheel) .*", read(name))
            self.assertNotEqual(commands, [], name)
            for command in re.split("&&|\n", "\n".join(commands)):
                if re.search(r" (install|wheel) ", command):
                    self.assertRegex(command, "--require-hashes|--no-deps", name)
                if command.rstrip().endswith(" ."):
                    self.assertIn("--no-build-isolation", command, name)

    def test_lock_files_are_copied(self) -> None:
        """The image and the Debian package are built where the files lie that they name."""
        for name, copied, count in (
            ("deploy/server/Dockerfile", ".dockerignore", 4),
            ("deploy/server/debian/rules", "deploy/server/build-deb", 3),
        ):
            locks = re.findall(r"--requirement (\S+)", read(name))
            self.assertEqual(len(locks), count)
            for lock in locks:
                self.assertRegex(read(copied), rf"[!\s]{re.escape(lock)}\s")
