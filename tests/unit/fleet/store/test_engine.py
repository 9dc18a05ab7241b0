"""Tests of the URLs of databases."""

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.common.errors import CannotStart
from opq_twisted.fleet.store.database import Database
from opq_twisted.fleet.store.engine import has_password, make_engine


class TestUrl(SynchronousTestCase):
    """What `--fleet-db` may be."""

    def test_refused(self) -> None:
        """Anything else is answered with what may be given; no password is quoted."""
        for url in (
            *("", "fleet.db", "/var/lib/fleet.db", "sqlite:", "sqlite://", "sqlite:///", "SQLITE"),
            *("sqlite:///:memory:", "sqlite:///folder/", "sqlite:///a\0b", "sqlite+x:///a"),
            *(
                "postgresql:",
                "postgresql://",
                "postgres://u:geheim@host/db",
                "mysql://u:geheim@h/d",
            ),
            *("postgresql+asyncpg://u:geheim@host/db", "postgresql://u:geheim@host:port/db"),
            *("postgresql://[u:geheim", "postgresql://u:geheim@[::1/db", "\n", "é://"),
        ):
            sentence = str(self.assertRaises(CannotStart, make_engine, url))
            self.assertIn("--fleet-db: give sqlite:///PATH, or postgresql://", sentence)
            self.assertNotIn("geheim", sentence)

    def test_password(self) -> None:
        """A password on the command line is recognized, also as a parameter."""
        for url in (
            "postgresql://u:p@h/d",
            "postgresql://h/d?password=p",
            "postgresql://h/d?pass%77ord=p",
        ):
            self.assertTrue(has_password(url), url)
        for url in ("postgresql://u@h:5432/d", "postgresql://[::1]:5432/d", "sqlite:////a:b@c"):
            self.assertFalse(has_password(url), url)

    def test_never_logged(self) -> None:
        """A start tells that the database is away, with advice, and without the password."""
        database = Database(None, "postgresql://u:geheim@127.0.0.1:1/d")
        with capturedLogs() as events:
            database.prepare()
        lines = [formatEvent(event) for event in events]
        self.assertIn("PGPASSFILE", lines[0])
        self.assertIn("Reports are refused until the database can be used.", lines[1])
        self.assertNotIn("geheim", "".join(lines))
        self.assertNotIn("geheim", repr(database.engine))
