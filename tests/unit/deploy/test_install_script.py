"""The shipped install_update.sh, run as it is."""

import fcntl
import os
import shlex
import shutil
import signal

from tests.helpers.root_folder import (
    AGENT,
    BAD_CONFIGURATION,
    BEGIN_FINISH,
    ENABLED,
    END_FINISH,
    FINISH,
    PYTHON,
    RESCUE_UNITS,
    SHIPPED,
    InstallCase,
    executable,
    service,
)


class SandboxTests(InstallCase):
    """An install without systemd."""

    def test_first_install(self) -> None:
        """A fresh box gets its first release, and has no previous one."""
        said = self.install(100)
        self.assertEqual(self.box.state(), (100, None, {"100"}))
        self.assertIn("and not rebooting: OPQ_SYSTEMD is no.", said)

    def test_updates(self) -> None:
        """An update keeps the release before it, and removes older ones."""
        self.install(100, 200, 300)
        self.assertEqual(self.box.state(), (300, 200, {"200", "300"}))

    def test_link_among_releases(self) -> None:
        """Of a link among the releases only the link is removed, not its target."""
        self.install(100)
        (self.box.prefix / "releases" / "latest").symlink_to("100")
        self.box.install(100)
        self.assertEqual(self.box.state(), (100, None, {"100"}))

    def test_reinstall(self) -> None:
        """Installing the current release again keeps its folder, and the previous one."""
        self.install(100, 200)
        self.assertIn("keeping it", self.box.install(200))
        self.assertEqual(self.box.state(), (200, 100, {"100", "200"}))

    def test_return(self) -> None:
        """Going back to the previous release builds it again, whatever its files are."""
        self.install(100, 200)
        sample = self.box.prefix / "releases" / "100" / AGENT / "opqbox_config.json"
        sample.write_text("rotten")
        self.box.install(100)
        self.assertEqual(self.box.state(), (100, 200, {"100", "200"}))
        self.assertEqual(sample.read_text(), (SHIPPED / "opqbox_config.json").read_text())

    def test_moved_prefix(self) -> None:
        """The links are relative, so that the prefix can be moved."""
        self.install(100, 200)
        self.assertEqual(self.box.copy(self.box.folder.parent / "b").state()[:2], (200, 100))

    def test_missing_version(self) -> None:
        """A folder without VERSION is refused."""
        (self.box.unpack(100) / "VERSION").unlink()
        self.assert_refused(self.box.run(100), "no VERSION")

    def test_odd_version(self) -> None:
        """An invalid VERSION is refused, and cannot lead out of the prefix."""
        version = self.box.unpack(100) / "VERSION"
        for text in ("", "0", "007", "../1", "1 2", "1\n2", "v1", "1" * 16):
            version.write_text(text)
            result = self.box.run(100)
            self.assertEqual(result.returncode, 1, text)
            self.assertIn("seconds since the epoch", result.stderr)
        self.assertFalse(self.box.prefix.exists())

    def test_another_version_expected(self) -> None:
        """An update of another version than the agent expects is refused."""
        self.box.unpack(100)
        self.assert_refused(self.box.run(100, OPQ_VERSION="200"), "100", "200")

    def test_odd_environment(self) -> None:
        """The error names an invalid setting."""
        self.box.unpack(100)
        self.assert_refused(self.box.run(100, OPQ_PREFIX="opq"), "OPQ_PREFIX", "not opq")
        self.assert_refused(self.box.run(100, OPQ_REBOOT="0"), "OPQ_REBOOT", "not 0")
        self.assert_refused(self.box.run(100, OPQ_SYSTEMD="yes"), "OPQ_SYSTEMD", "not yes")

    def test_two_at_once(self) -> None:
        """A second install is refused while one is under way."""
        self.box.unpack(100)
        self.box.prefix.mkdir()
        with (self.box.prefix / ".install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.assert_refused(self.box.run(100), "another install is under way")
        self.box.install(100)

    def test_agent_that_does_not_start(self) -> None:
        """A release whose agent cannot start is not made current."""
        for version in (100, 200):
            self.box.unpack(version)
        self.box.install(100)
        self.box.tool(
            "python", PYTHON.replace('echo "$0" "$@"', 'case "$*" in *help) exit 1; esac')
        )
        self.assert_refused(self.box.run(200), "the agent of release 200 does not start")
        self.assertEqual(self.box.version("current"), 100)

    def test_no_room(self) -> None:
        """After a failed command, its message and a sentence are printed; the release stays."""
        for version in (100, 200):
            self.box.unpack(version)
        self.box.install(100)
        self.box.tool("cp", "#!/bin/sh\necho 'cp: No space left on device' >&2\nexit 1\n")
        result = self.box.run(200)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(
            result.stderr.splitlines(),
            [
                "cp: No space left on device",
                "install_update.sh: stopped by the error above: fix it and run this script again.",
            ],
        )
        self.assertEqual(self.box.version("current"), 100)

    def test_copy_cut_short(self) -> None:
        """A partly copied release is built again."""
        self.box.unpack(100)
        self.box.tool(
            "cp", '#!/bin/sh\nmkdir "$3"; echo half >"$3/opqbox_config.json"; kill -9 0\n'
        )
        self.assertEqual(self.box.run(100).returncode, -signal.SIGKILL)
        (self.box.folder / "bin" / "cp").unlink()
        self.box.install(100)
        self.assertEqual(self.box.version("current"), 100)

    def test_removal_cut_short(self) -> None:
        """A partly removed release does not count as one."""
        self.install(100, 200)
        rm = shutil.which("rm")
        self.box.tool(
            "rm",
            f'#!/bin/sh\n[ "$1" = -rf ] || exec {rm} "$@"\n{rm} -r "$2/{AGENT}/bin"\nkill -9 0\n',
        )
        self.assertEqual(self.box.run(100).returncode, -signal.SIGKILL)
        self.assertEqual(self.box.state(), (200, None, {"100", "200"}))
        (self.box.folder / "bin" / "rm").unlink()
        self.box.install(100)
        self.assertEqual(self.box.state(), (100, 200, {"100", "200"}))


class ArgumentTests(InstallCase):
    """The arguments of the script."""

    def test_refused(self) -> None:
        """An unknown argument is refused, and nothing is installed."""
        self.box.unpack(100)
        for arguments in (("--dry-run",), ("-h",), ("",), ("--check", "--help"), ("200",)):
            result = self.box.type(100, *arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn("there are no arguments but --check and --help", result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1)
        self.assertFalse(self.box.prefix.exists())

    def test_help(self) -> None:
        """The help is the beginning of the script, and nothing is installed."""
        self.box.unpack(100)
        result = self.box.type(100, "--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertTrue(result.stdout.startswith("Install the release beside this script"))
        self.assertIn("./install_update.sh --check ", result.stdout)
        self.assertIn("OPQ_REBOOT ", result.stdout)
        self.assertFalse(self.box.prefix.exists())

    def test_check(self) -> None:
        """The check says what would happen, and changes nothing."""
        service(self.box.unpack(100), "triggering", "opq-triggering.service")
        self.box.install(100, managed=True)
        self.box.asked()
        service(self.box.unpack(200), "triggering", "opq-new.service")
        executable(self.box.folder / "opq-box-update-200" / "kernel" / "install.sh", "#!/bin/sh\n")
        files = {path: path.lstat().st_mtime_ns for path in self.box.changeable()}
        result = self.box.type(200, "--check", managed=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        for words in (
            "Installed: 100. Release here: 200.",
            "would be stopped: opq-box-agent.service opq-triggering.service.",
            "would be enabled: opq-box-agent.service opq-new.service.",
            "kernel/install.sh would be run.",
            "would be rebooted",
            "This script would install release 200.",
        ):
            self.assertIn(words, result.stdout)
        self.assertEqual({path: path.lstat().st_mtime_ns for path in self.box.changeable()}, files)
        self.assertEqual(self.box.asked(), [])

    def test_check_of_an_older_release(self) -> None:
        """The check reports an older release, with the exit status of the installation."""
        self.box.unpack(100)
        self.install(200)
        older = self.box.type(100, "--check", OPQ_VERSION="")
        self.assert_refused(older, "release 100 is older than the installed one, 200")
        self.assertEqual(self.box.type(100, "--check", OPQ_VERSION="100").returncode, 0)
        self.assertEqual(self.box.state(), (200, None, {"200"}))

    def test_check_of_a_configuration(self) -> None:
        """The check reports a configuration that the release cannot use."""
        self.box.unpack(100)
        self.box.config.parent.mkdir()
        self.box.config.write_text("{}")
        self.box.tool("python", PYTHON.replace("    *)", BAD_CONFIGURATION))
        result = self.box.type(100, "--check", managed=True)
        self.assertEqual(result.returncode, 75)
        self.assertIn("cannot use this box's configuration", result.stderr)
        self.assertEqual(list(self.box.prefix.rglob("*")), [])

    def test_check_of_an_unfit_box(self) -> None:
        """The check reports what the box lacks, as the installation would."""
        self.box.unpack(100)
        self.box.prefix.write_text("no folder")
        result = self.box.type(100, "--check")
        self.assertEqual(result.returncode, 75)
        self.assertIn(f"cannot write in {self.box.prefix}: it is no folder", result.stderr)
        self.box.prefix.unlink()
        self.box.tool("findmnt", "#!/bin/sh\necho rw,noexec,relatime\n")
        result = self.box.type(100, "--check")
        self.assertEqual(result.returncode, 75)
        self.assertIn("it is mounted noexec", result.stderr)
        (self.box.folder / "bin" / "findmnt").unlink()
        self.box.tool("head", "#!/bin/sh\necho 'head: x: No space left on device' >&2\nexit 1\n")
        result = self.box.type(100, "--check")
        self.assertEqual(result.returncode, 75)
        self.assertIn("No space left on device", result.stderr)

    def test_older_release(self) -> None:
        """An older release is installed by hand only if OPQ_VERSION names it."""
        self.box.unpack(100)
        self.install(200)
        refused = self.box.run(100, OPQ_VERSION="")
        self.assert_refused(refused, "is older than the installed one, 200", "OPQ_VERSION=100")
        self.assertEqual(self.box.state(), (200, None, {"200"}))
        self.box.install(100, OPQ_VERSION="100")
        self.assertEqual(self.box.version("current"), 100)


class ManagedTests(InstallCase):
    """An install as root with systemd."""

    def test_by_hand(self) -> None:
        """By hand, the script installs and enables all services, and reboots the box."""
        service(self.box.unpack(100), "triggering", "opq-triggering.service")
        said = self.box.install(100, managed=True)
        self.assertEqual(
            self.box.asked(),
            [
                *BEGIN_FINISH,
                "daemon-reload",
                ENABLED,
                "daemon-reload",
                "--quiet enable opq-box-agent.service opq-triggering.service",
                END_FINISH,
                "reboot",
            ],
        )
        self.assertIn("Wrote a sample configuration to /etc/opq/opqbox_config.json", said)
        self.assertEqual(
            {path.name for path in self.box.units.iterdir()},
            {"opq-box-agent.service", "opq-triggering.service", *RESCUE_UNITS},
        )

    def test_command(self) -> None:
        """The command opq-box is that of the current release; an existing command stays."""
        link = self.box.folder / "usr" / "local" / "bin" / "opq-box"
        self.install(100, managed=True)
        self.assertEqual(os.readlink(link), f"/opt/opq/current/{AGENT}/bin/opq-box")
        link.unlink()
        link.symlink_to("/home/somebody/opq-box")
        self.install(200, managed=True)
        self.assertEqual(os.readlink(link), "/home/somebody/opq-box")

    def test_update_by_hand(self) -> None:
        """All services of both releases are stopped before the switch; removed ones are removed."""
        service(self.box.unpack(100), "triggering", "opq-old.service")
        service(self.box.unpack(200), "triggering", "opq-new.service")
        (self.box.units / "ssh.service").write_text("[Service]\nExecStart=/usr/sbin/sshd\n")
        self.box.install(100, managed=True)
        self.box.asked()
        self.box.install(200, managed=True)
        self.assertEqual(
            self.box.asked(),
            [
                *BEGIN_FINISH,
                "stop opq-box-agent.service opq-old.service",
                "daemon-reload",
                "--quiet enable opq-box-agent.service opq-new.service",
                "--quiet disable opq-old.service",
                "daemon-reload",
                END_FINISH,
                "reboot",
            ],
        )
        self.assertEqual(
            {path.name for path in self.box.units.iterdir()},
            {"opq-box-agent.service", "opq-new.service", "ssh.service", *RESCUE_UNITS},
        )

    def test_by_the_agent(self) -> None:
        """For the agent, the script neither stops the agent nor reboots."""
        service(self.box.unpack(100), "triggering", "opq-triggering.service")
        self.box.install(100, managed=True)
        self.box.asked()
        self.box.install(100, managed=True, OPQ_REBOOT="no", OPQ_UNIT="opq-box-install.service")
        self.assertEqual(
            self.box.asked(),
            [
                "stop opq-triggering.service",
                "daemon-reload",
                "--quiet enable opq-box-agent.service opq-triggering.service",
            ],
        )

    def test_configuration_is_kept(self) -> None:
        """The owner's configuration is never replaced."""
        self.box.unpack(100)
        self.box.config.parent.mkdir()
        self.box.config.write_text("mine")
        self.box.install(100, managed=True)
        self.assertEqual(self.box.config.read_text(), "mine")

    def test_caller_is_ended(self) -> None:
        """A component that stops the unit of the script's caller does not stop the installation."""
        self.box.older_daemon()
        script = self.box.unpack(100) / "kernel" / "install.sh"
        executable(script, "#!/bin/sh\nexec systemctl disable --now old.service\n")
        # The caller is the group that this shell begins.
        caller = ("sh", "-c", 'echo "$$" >"$STATE/caller" && exec "$0"')
        result = self.box.run(100, *caller, managed=True)
        self.assertEqual(result.returncode, -signal.SIGKILL, result)
        with (self.box.prefix / ".install.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # Until the script has ended.
        self.assertEqual(self.box.version("current"), 100)
        self.assertTrue(self.box.is_service("enabled", "opq-box-agent.service"))
        self.assertEqual(self.box.asked()[-1], "reboot")

    def test_caller_writes_into_the_log(self) -> None:
        """If the caller writes the output to the log, as an earlier agent, it is there once."""
        self.box.unpack(100)
        log = "/var/log/opq/box_update.log"
        caller = ("sh", "-c", f'mkdir -p {log.rpartition("/")[0]} && exec "$0" >>{log} 2>&1')
        result = self.box.run(100, *caller, managed=True)
        self.assertEqual(result.returncode, 0, result)
        self.assertEqual(self.box.update_log.read_text().count("is now current"), 1)

    def test_failure_after_a_service_was_disabled(self) -> None:
        """If a later component fails, the services that an earlier one stopped are started."""
        self.box.older_daemon()
        update = self.box.unpack(100)
        script = "#!/bin/sh\nexec systemctl disable --now old.service\n"
        executable(update / "firmware" / "install.sh", script)
        executable(update / "kernel" / "install.sh", "#!/bin/sh\nexit 3\n")
        self.box.run(100, managed=True)
        self.assertIsNone(self.box.version("current"))
        self.assertTrue(self.box.is_service("enabled", "old.service"))
        self.assertTrue(self.box.is_service("active", "old.service"))
        self.assertNotIn("reboot", self.box.asked())

    def test_component_finds_the_box_at_fault(self) -> None:
        """Exit status 75 of a component is passed on; earlier components are restored."""
        done = self.box.folder / "done"
        for release in (100, 200):
            update = self.box.unpack(release)
            executable(
                update / "firmware" / "install.sh",
                f'#!/bin/sh\necho "$OPQ_VERSION" >>{shlex.quote(str(done))}\n',
            )
            executable(
                update / "kernel" / "install.sh", f"#!/bin/sh\nexit {75 * (release == 200)}\n"
            )
        self.box.install(100, managed=True)
        result = self.box.run(200, managed=True, OPQ_UNIT="agents.service")
        self.assertEqual(result.returncode, 75, result)
        self.assertIn("kernel/install.sh finds this box at fault", result.stderr)
        self.assertEqual(done.read_text().split(), ["100", "200", "100"])
        self.assertEqual(self.box.version("current"), 100)

    def test_interrupted_again_and_again(self) -> None:
        """An installation that crashes the machine three times is given up and undone."""
        self.box.older_daemon()
        update = self.box.unpack(100)
        script = "#!/bin/sh\nsystemctl disable --now old.service\nkill -9 0\n"
        executable(update / "kernel" / "install.sh", script)
        self.box.run(100, managed=True)
        for _ in range(3):
            self.assertFalse(self.box.is_service("enabled", "old.service"))
            self.box.boot()
        self.assertTrue(self.box.is_service("enabled", "old.service"))
        self.assertFalse(self.box.is_service("enabled", FINISH))
        self.assertIn("was interrupted 3 times", self.box.update_log.read_text())
        self.assertIsNone(self.box.version("current"))

    def test_no_reboot(self) -> None:
        """OPQ_REBOOT applies to this run only: the next boot's installation ends with a reboot."""
        self.box.unpack(100)
        self.assertNotIn("Rebooting.", self.box.install(100, managed=True, OPQ_REBOOT="no"))
        self.box.asked()
        self.box.install(100, managed=True, OPQ_REBOOT="no", FINISH_SHELL="true")
        self.box.boot()
        self.assertEqual(self.box.asked()[-1], "reboot")

    def test_configuration_that_cannot_be_used(self) -> None:
        """The release reads the configuration of the agent's unit before anything is changed."""
        self.install(100, managed=True)
        self.box.asked()
        self.box.unpack(200)
        self.box.tool("python", PYTHON.replace("    *)", BAD_CONFIGURATION))
        unit = "{ path=/opt/opq ; argv[]=/opt/opq/agent --config /opt/opq/mine --port 80 ; }\n"
        (self.box.services / "ExecStart").write_text(unit)
        (self.box.prefix / "mine").write_text("{}")
        result = self.box.run(200, managed=True)
        self.assertEqual(result.returncode, 75)
        self.assertEqual(self.box.state(), (100, None, {"100"}))
        self.assertIn("updates_ep is wrong in /opt/opq/mine.\n", result.stderr)
        self.assertIn("cannot use this box's configuration, so nothing was changed", result.stderr)
        self.assertEqual(self.box.version("current"), 100)
        self.assertEqual(self.box.asked(), [])

    def test_another_prefix(self) -> None:
        """Units name the actual prefix; a prefix that a unit cannot name is refused."""
        self.install(100, managed=True, OPQ_PREFIX="/opt/else")
        unit = (self.box.units / "opq-box-agent.service").read_text()
        self.assertIn(f"ExecStart=/opt/else/current/{AGENT}/bin/opq-box-agent --config", unit)
        self.assertNotIn("/opt/opq/", unit)
        rescue = (self.box.units / "opq-box-rescue.service").read_text()
        self.assertIn("\nExecStart=/opt/else/rescue/opq-box-rescue\n", rescue)
        self.assertTrue(os.access(self.box.prefix.parent / "else/rescue/opq-box-rescue", os.X_OK))
        refused = self.box.run(100, managed=True, OPQ_PREFIX="/opt/o p q")
        self.assert_refused(refused, "/opt/o p q")

    def test_component_script(self) -> None:
        """A component's script runs in its folder of the complete release, before it is live."""
        script = self.box.unpack(100) / "kernel" / "install.sh"
        executable(
            script, '#!/bin/sh\ncat ../VERSION; pwd -P; echo "$OPQ_VERSION $OPQ_STATE_DIR"\n'
        )
        said = self.box.install(100, managed=True)
        wanted = "100\n/opt/opq/releases/100/kernel\n100 /var/lib/opq/updater\n"
        self.assertIn(wanted, said)
        self.assertLess(said.index(wanted), said.index("Release 100 is now current."))

    def test_component_script_fails(self) -> None:
        """If a component's script fails, all services keep running, and the live release stays."""
        self.box.unpack(100)
        executable(self.box.unpack(200) / "kernel" / "install.sh", "#!/bin/sh\nexit 3\n")
        self.box.install(100, managed=True)
        self.box.asked()
        result = self.box.run(200, managed=True)
        self.assert_refused(result, "the installation of release 200 failed")
        self.assertIn("kernel/install.sh failed", result.stdout)
        self.assertEqual(self.box.asked(), [*BEGIN_FINISH, END_FINISH])
        self.assertEqual(self.box.version("current"), 100)
        self.assertFalse((self.box.units / FINISH).exists())

    def test_sandbox_of_root(self) -> None:
        """Root can install in a sandbox too: nothing outside the prefix is touched."""
        executable(self.box.unpack(100) / "kernel" / "install.sh", "#!/bin/sh\ntouch /etc/kernel\n")
        (self.box.folder / "opq-box-update-100" / "root.json").write_text("new")
        self.box.install(100, managed=True, OPQ_SYSTEMD="no")
        self.assertEqual(self.box.image(), 100)
        self.assertEqual(self.box.asked(), [])
        self.assertEqual(
            list((self.box.folder / "etc").rglob("*")), [self.box.units.parent, self.box.units]
        )
