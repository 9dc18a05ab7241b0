"""The user at the other end of a Unix socket."""

import os
import pwd

from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.fleet.control.peer import uid_of, user_name
from tests.helpers.fleet_control import UnixTransport


class PeerTests(SynchronousTestCase):
    """Who has connected."""

    def test_uid(self) -> None:
        """The kernel says which user has connected."""
        transport = UnixTransport()
        self.assertEqual(uid_of(transport), os.getuid())
        for each in transport.pair:
            each.close()

    def test_name(self) -> None:
        """A user is named as in the list of users; one without a name by the number."""
        self.assertEqual(user_name(os.getuid()), pwd.getpwuid(os.getuid()).pw_name)
        self.assertEqual(user_name(987654321), "uid 987654321")
