"""Addresses are on the internet, inside a home, or the box's own."""

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.box.network.addresses import Reach, in_same_site, reach_of

ADDRESSES = {
    Reach.INTERNET: "8.8.8.8 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::",
    Reach.HOME: (
        "10.0.0.1 172.31.0.1 192.168.1.1 169.254.1.1 100.64.0.1 240.0.0.1 198.18.0.1 0.1.2.3 "
        "fe80::1 fe80::1%eth0 fd00::1 fec0::1 ::8.8.8.8 64:ff9b:1::1 2001:db8::1 "
        "::ffff:192.168.1.1 64:ff9b::10.0.0.1 2002:c0a8:101::"
    ),
    Reach.MACHINE: (
        "127.0.0.1 127.9.9.9 0.0.0.0 ::1 :: ::ffff:127.0.0.1 ::ffff:0.0.0.0 64:ff9b::127.0.0.1 "
        "2002:7f00:1::"
    ),
    Reach.NOWHERE: "224.0.0.1 255.255.255.255 ff02::1 ::ffff:224.0.0.1",
}


class ReachTests(SynchronousTestCase):
    """How close an address is."""

    def test_reach(self) -> None:
        """Every form of an address is classified by the address that it stands for."""
        for reach, addresses in ADDRESSES.items():
            for address in addresses.split():
                with self.subTest(address=address):
                    self.assertIs(reach_of(address), reach)

    def test_name(self) -> None:
        """A name is not an address."""
        self.assertRaises(ValueError, reach_of, "updates.example")

    def test_home(self) -> None:
        """IPv6 addresses of one site belong together; a home has only one public IPv4 address."""
        self.assertTrue(in_same_site("2001:470:1:a::1", "2001:470:1:b::2"))
        self.assertFalse(in_same_site("2001:470:1::1", "2001:470:2::1"))
        self.assertFalse(in_same_site("8.8.8.8", "8.8.8.9"))
        self.assertFalse(in_same_site("8.8.8.8", "2001:470:1::1"))
