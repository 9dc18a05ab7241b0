"""The server's service has its parts, and explains why it does not start."""

import io
import os
import re
import signal
import socket
import sys
import tempfile
from ipaddress import ip_network
from pathlib import Path

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from twisted.application.service import IServiceMaker, MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, readBody

from opq_twisted.box.network.urls import read_url
from opq_twisted.common.daemon_options import WrongCommandLine
from opq_twisted.common.errors import CannotStart
from opq_twisted.http.listener import Listener
from opq_twisted.server.service import Options, makeService
from opq_twisted.trust import keys
from tests.helpers.archives import make_archive, name_of
from tests.helpers.box_fakes import logged
from tests.helpers.key_holders import save_time
from tests.helpers.privileges import remove_tree, without_privileges
from tests.helpers.process import open_descriptors
from tests.helpers.project import PROJECT
from tests.helpers.signed_metadata import make_key, write_key


def options_of(*arguments: object) -> Options:
    options = Options()
    options.parseOptions([str(argument) for argument in arguments])
    return options


class OptionsTests(SynchronousTestCase):
    """The command line."""

    def setUp(self) -> None:
        self.patch(sys, "stderr", io.StringIO())

    def test_defaults(self) -> None:
        """The port and the directory are those of the older server."""
        options = options_of()
        self.assertEqual(options["port"], "8151")
        self.assertEqual(options["updates-dir"], "/var/opq/box-updates")

    def test_networks(self) -> None:
        """Addresses and networks of both kinds are valid; names and partial addresses are not."""
        for option in ("trusted-proxies", "metrics-from"):
            options = options_of(f"--{option}", "192.0.2.7, 2001:db8::/32")
            self.assertEqual(
                options[option], (ip_network("192.0.2.7"), ip_network("2001:db8::/32"))
            )
            for text in ("proxy.example.org", "192.0.2", "192.0.2.7/24"):
                error = self.assertRaises(WrongCommandLine, options_of, f"--{option}", text)
                self.assertIn(f"--{option} {text}: ", str(error))
                self.assertIn("Give addresses or networks such as", str(error))

    def test_short(self) -> None:
        """Both have a short form."""
        options = options_of("-p", 80, "-d", "/srv")
        self.assertEqual((options["port"], options["updates-dir"]), ("80", "/srv"))

    def test_limits(self) -> None:
        """An unreasonable number is refused with a sentence."""
        for option, values in {
            "heartbeat": ("0", "-1", "nan", "inf", "1e9", "soon", ""),
            "max-downloads": ("0", "-5", "1.5", "many", "10000000"),
            "max-connections": ("0", "-5", "1.5", "many", "10000000"),
        }.items():
            for value in values:
                error = self.assertRaises(WrongCommandLine, options_of, f"--{option}={value}")
                self.assertIn(f"--{option} {value}: give a ", str(error))

    def test_mirror(self) -> None:
        """The mirror's URL is one that boxes follow; a slash at its end makes no difference."""
        for url in (
            "http://[::1]:8080/opq",
            "https://mirror.example.org",
            "HTTPS://Mirror.example.org:443/a%2Fb/(c)",
            "http://the_mirror.:8151",
            "https://192.0.2.1",
        ):
            self.assertEqual(options_of("--mirror", url + "/")["mirror"], url)
            read_url(url)

    def test_no_mirror(self) -> None:
        """A URL that boxes would refuse is refused, without quoting its password."""
        for url in (
            "",
            "mirror",
            "ftp://x",
            "http://",
            "http://x/?a",
            "http://x/#a",
            "http://x y",
            "http://x/ü",
            "http://x:a",
            "http://x:0",
            "http://x:99999",
            "http://x..y",
            "http://" + "x" * 64,
            "http://[::1",
            "http://[:::1]",
            "https://the_mirror",
            "https://ab--cd.example.org",
            "http://box:sesame@x",
            "//x",
        ):
            error = self.assertRaises(WrongCommandLine, options_of, f"--mirror={url}")
            self.assertIn("--mirror: give a URL such as", str(error))
            self.assertNotIn("sesame", str(error))

    def test_no_more(self) -> None:
        """The service takes no positional arguments."""
        for arguments in (("--updates",), ("/srv",), ("--port",)):
            self.assertRaises(WrongCommandLine, options_of, *arguments)

    def test_plugin(self) -> None:
        """`twistd` finds the service by its name."""
        makers = {maker.tapname: maker for maker in getPlugins(IServiceMaker)}
        maker = makers["opq-update-server"]
        self.assertIs(maker.options, Options)
        self.assertIs(maker.makeService, makeService)


class ManualTests(SynchronousTestCase):
    """The manual page, opq-update-server(8)."""

    def test_complete(self) -> None:
        """It has all options, and no others."""
        page = PROJECT / "deploy" / "server" / "debian" / "opq-update-server.8"
        _, _, options = page.read_text().replace("\\-", "-").partition(".SH OPTIONS")
        known = {option.rstrip("=") for option in Options().longOpt} - {"help"}
        self.assertEqual(set(re.findall(r"--([a-z-]+)", options)), known)


class CannotStartTests(SynchronousTestCase):
    """A mistake on the command line gives one sentence."""

    def setUp(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(remove_tree, self.place)
        self.place.chmod(0o755)

    def refusal(self, directory: Path, port: str = "tcp:0") -> str:
        options = options_of("--updates-dir", directory, "--port", port)
        return str(self.assertRaises(CannotStart, makeService, options))

    def test_wrong(self) -> None:
        """The port is invalid, or the directory is a file or does not exist."""
        self.assertIn("--port http", self.refusal(self.place, "http"))
        (self.place / "file").touch()
        self.assertIn("Not a directory", self.refusal(self.place / "file"))
        directory = self.place / "missing"
        self.assertEqual(
            self.refusal(directory),
            f"Cannot read the updates directory {directory}: No such file or directory. "
            "Create it, or name another with --updates-dir.",
        )

    def test_unreadable(self) -> None:
        """The server may not read the directory."""
        directory = self.place / "closed"
        directory.mkdir(mode=0o311)
        with without_privileges():
            self.assertIn("Permission denied", self.refusal(directory))

    def test_timestamp_key(self) -> None:
        """The key is missing, is not a key, or has another passphrase."""
        missing = self.place / "missing.pem"
        self.assertEqual(
            self.key_refusal(missing),
            f"The key {missing} cannot be read: No such file or directory. "
            "Look at --timestamp-key and --timestamp-passphrase-file.",
        )
        self.assertIn("Is a directory", self.key_refusal(self.place))
        no_key = self.place / "no key"
        no_key.write_text("no key")
        self.assertIn(f"chmod 600 {no_key}", self.key_refusal(no_key))
        no_key.chmod(0o640)
        self.assertIn("cannot be opened", self.key_refusal(no_key))
        save_time(self)
        keys.create(self.place, "timestamp", b"open sesame")
        (encrypted,) = self.place.glob("timestamp-*.pem")
        self.assertIn("no passphrase was given", self.key_refusal(encrypted))
        passphrase = self.place / "passphrase"
        self.assertEqual(
            self.key_refusal(encrypted, "--timestamp-passphrase-file", passphrase),
            f"The passphrase in {passphrase} cannot be read: No such file or directory. Name a "
            "regular file whose first line is the passphrase, or put the passphrase into the "
            "environment. Look at --timestamp-key and --timestamp-passphrase-file.",
        )
        passphrase.write_text("open barley\n")
        self.assertIn(
            "the passphrase is wrong",
            self.key_refusal(encrypted, "--timestamp-passphrase-file", passphrase),
        )

    def test_passphrase_without_a_key(self) -> None:
        """A passphrase without a key is refused."""
        options = options_of("-d", self.place, "--timestamp-passphrase-file", "/x")
        error = self.assertRaises(CannotStart, makeService, options)
        self.assertIn("of no use without --timestamp-key", str(error))

    def key_refusal(self, path: Path, *more: object) -> str:
        options = options_of("-d", self.place, "-p", "tcp:0", "--timestamp-key", path, *more)
        return str(self.assertRaises(CannotStart, makeService, options))

    def test_timestamp_key_opened(self) -> None:
        """A key is decrypted with the passphrase in a file or in the environment."""
        save_time(self)
        keys.create(self.place, "timestamp", b"open sesame")
        (path,) = self.place.glob("timestamp-*.pem")
        passphrase = self.place / "passphrase"
        passphrase.write_text("open sesame\nThe second line says what it is for.\n")
        passphrase.chmod(0o600)
        arguments = ("-d", self.place, "--no-access-log", "--timestamp-key", path)
        said = logged(self)
        makeService(options_of(*arguments, "--timestamp-passphrase-file", passphrase))
        self.assertEqual(said, [])
        self.patch(os, "environb", {b"OPQ_TIMESTAMP_PASSPHRASE": b"open sesame"})
        makeService(options_of(*arguments))

    def test_weak_files(self) -> None:
        """A passphrase that others can read, and an older key format, cause warnings."""
        signer = make_key()
        path = write_key(self.place / "key.pem", signer, BestAvailableEncryption(b"open sesame"))
        passphrase = self.place / "passphrase"
        passphrase.write_text("open sesame\n")
        passphrase.chmod(0o444)
        arguments = ("-d", self.place, "--no-access-log", "--timestamp-key", path)
        said = logged(self)
        makeService(options_of(*arguments, "--timestamp-passphrase-file", passphrase))
        for word in (f"chmod go-rwx {passphrase}", f"opq-release encrypt {path}"):
            self.assertEqual(sum(word in sentence for sentence in said), 1)


class ServiceTests(TestCase):
    """All parts together, on a real port."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.access_log = Path(self.mktemp())

    def make_service(self, port: str) -> MultiService:
        options = options_of("-d", self.directory, "-p", port, "--access-log", self.access_log)
        service = makeService(options)
        assert isinstance(service, MultiService)
        return service

    async def test_life(self) -> None:
        """It knows the directory before its first response, follows it, and closes everything."""
        make_archive(self.directory / name_of(1), 1)
        heard = self.listen_as_systemd()
        before = signal.getsignal(signal.SIGHUP)
        service = self.make_service("tcp:0:interface=127.0.0.1")
        service.privilegedStartService()
        service.startService()
        try:
            self.assertEqual(heard.recv(100), b"READY=1")
            listener = next(part for part in service if isinstance(part, Listener))
            port = await next(iter(listener))._waitingForPort
            url = b"http://127.0.0.1:%d/version" % port.getHost().port
            self.assertEqual(await get(url), b"1")
            make_archive(self.directory / name_of(2), 2)
            while await get(url) != b"2":
                await deferLater(reactor, 0.01)
        finally:
            await service.stopService()
        await deferLater(reactor, 0)
        self.assertEqual([name for name in open_descriptors() if "inotify" in name], [])
        self.assertEqual(heard.recv(100), b"STOPPING=1")
        self.assertIn('"uri": "/version"', self.access_log.read_text())
        self.assertIs(signal.getsignal(signal.SIGHUP), before)

    async def test_not_ready(self) -> None:
        """A server that cannot listen is never reported as ready."""
        heard = self.listen_as_systemd()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            service = self.make_service(port)
            with self.assertRaises(CannotStart):
                service.privilegedStartService()
        with self.assertRaises(BlockingIOError):
            heard.recv(100)

    def listen_as_systemd(self) -> socket.socket:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listening.close)
        listening.bind(f"{folder.name}/notify")
        listening.setblocking(False)
        self.patch(os, "environ", {**os.environ, "NOTIFY_SOCKET": f"{folder.name}/notify"})
        return listening


async def get(url: bytes) -> bytes:
    body: Deferred[bytes] = readBody(await Agent(reactor).request(b"GET", url))
    return await body
