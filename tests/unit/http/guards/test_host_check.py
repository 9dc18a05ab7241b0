"""Requests are for this machine if their Host header is one of its names."""

import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.http.guards import host_check
from opq_twisted.http.guards.host_check import HostCheck
from tests.unit.box.web.test_csrf import request


class ForeignHostTests(SynchronousTestCase):
    """The names that a box accepts."""

    def setUp(self) -> None:
        self.patch(socket, "gethostname", lambda: "OPQ-Box")
        self.check = HostCheck(
            ["Sensor.example.org", "Box.example.net.", "box.home:8080", "bücher.org"]
        )

    def assert_own(self, *hosts: str) -> None:
        for host in hosts:
            with self.subTest(host=host):
                self.assertIsNone(self.check.find_foreign(request(host=host)))

    def assert_foreign(self, *hosts: str) -> None:
        for host in hosts:
            with self.subTest(host=host):
                self.assertIsNotNone(self.check.find_foreign(request(host=host)))

    def test_own(self) -> None:
        """Addresses, the box's names, those of the configuration, and no header are accepted."""
        self.assertIsNone(self.check.find_foreign(request()))
        self.assert_own("192.168.0.7", "192.168.0.7:8080", "127.0.0.1")
        self.assert_own("[::1]", "[::1]:8080", "[fe80::ba27:ebff:fe00:1]:8080")
        self.assert_own("localhost", "localhost:8080", "LOCALHOST")
        self.assert_own("opq-box", "opq-box:8080", "OPQ-Box.local", "opq-box.local.:8080")
        self.assert_own("sensor.example.org", "SENSOR.example.org:80", "box.example.net")
        self.assert_own("box.home", "xn--bcher-kva.org:8080")

    def test_full_name(self) -> None:
        """A box with a full host name accepts the short one, too."""
        self.patch(socket, "gethostname", lambda: "opq-box.example.org")
        self.assert_own("opq-box.example.org", "opq-box", "opq-box.local", "opq-box.local.")
        self.assert_foreign("opq-box.example.com", "example.org", "opq-box.example.org.local")

    def test_name_from_hosts(self) -> None:
        """The full name of the box in /etc/hosts is accepted, but not the other names there."""
        path = Path(self.mktemp())
        self.patch(host_check, "_HOSTS", path)
        self.assert_foreign("opq-box.example.org")
        path.write_bytes(
            b"127.0.0.1 localhost\n0.0.0.0 evil.example # opq-box\n"
            b"127.0.1.1\tOPQ-Box.example.org. opq-box\n192.168.0.9 printer \xff\n"
        )
        self.assert_own("opq-box.example.org", "OPQ-BOX.example.org.:8080")
        self.assert_foreign("evil.example", "printer")

    def test_taken_name(self) -> None:
        """The names with numbers, which multicast DNS gives when a name is taken, are accepted."""
        self.assert_own("opq-box-2.local", "OPQ-Box-13.local:8080", "opq-box11.local")
        self.assert_foreign("opq-box-2", "opq-box-.local", "opq-box-x.local", "opq-box-02.local")
        self.assert_foreign("opq-box-2.local.evil.example", "opq-box-2.evil.local", "2.local")
        self.patch(socket, "gethostname", lambda: "opq-box-7")
        self.assert_own("opq-box-7.local", "opq-box-8.local", "opq-box-7-2.local")
        self.assert_foreign("opq-box.local", "opq.local")
        self.patch(socket, "gethostname", lambda: "7")
        self.assert_own("7.local", "7-2.local")
        self.assert_foreign("2.local", "local", ".local")

    def test_nameless(self) -> None:
        """A machine without a name accepts no empty name."""
        self.patch(socket, "gethostname", lambda: "")
        self.assert_foreign("", ".", ":8080", "local", ".local", "1.local", "-2.local")

    def test_renamed(self) -> None:
        """A box that is renamed while its agent runs accepts the new name, and not the old one."""
        self.patch(socket, "gethostname", lambda: "kitchen")
        self.assert_own("kitchen", "kitchen.local")
        self.assert_foreign("opq-box", "opq-box.local")

    def test_foreign(self) -> None:
        """Any other name is rejected, because somebody may have pointed it to the box."""
        for host in (
            "evil.example",
            "evil.example:8080",
            "opq-box.evil.example",
            "localhost.evil.example",
            "192.168.0.7.evil.example",
            "opq-box.lan",
            "2130706433",
            "127.1",
            "[evil.example]",
            "",
            ":8080",
            "opq-box@evil.example",
            "\xb2",
            "\xff",
            "x" * 10_000,
        ):
            with self.subTest(host=host):
                name = self.check.find_foreign(request(host=host))
                assert name is not None
                self.assertLessEqual(len(name), 100)
