"""Tests of the pace in the timestamp that the server signs."""

import hashlib
from pathlib import Path
from typing import Any

from tuf.api.metadata import Timestamp

from opq_twisted.server.timestamp.state import MetadataState
from opq_twisted.trust.metadata_files import max_size
from opq_twisted.trust.pace import ALL, FIELD, HELD, ChannelRelease, Pace, PaceUnknown
from tests.helpers.archives import name_of
from tests.helpers.fake_paces import FakePaces
from tests.helpers.signed_metadata import DAY, channel, make_key
from tests.unit.server.timestamp.test_state import NOW, RELEASE, TimestampTestCase

HALF = {"rollout": {"percent": 50, "salt": "x"}}


class PaceTestCase(TimestampTestCase):
    """A signed release in the channel `stable`, and a source of paces."""

    def setUp(self) -> None:
        super().setUp()
        self.source = FakePaces()
        self.pace = self.source
        self.path = self.archive()
        self.signed.init().publish(1, self.path)
        self.number = 1

    def publish(self, custom: dict[str, Any] | None = None, **channels: Path) -> None:
        """Sign the newest release of each channel."""
        self.number += 1
        targets = {name: channel(path, custom) for name, path in channels.items()}
        self.signed.targets(self.number, targets)
        self.signed.snapshot(self.number, self.number)

    def field(self) -> Any:
        """Return the field of the timestamp; None if it has none."""
        return self.signed.read_timestamp().unrecognized_fields.get(FIELD)

    def hold(self, version: int = RELEASE) -> dict[str, Any]:
        """Let the source hold a release; returns the field."""
        self.source.paces = {"stable": Pace(version, ALL, HELD)}
        self.check()
        return {"stable": Pace(version, ALL, HELD).to_json()}

    def lose(self) -> None:
        """Let the source fail like a database that is away."""
        self.source.error = PaceUnknown("The database is away.")

    def sentences(self, state: MetadataState) -> list[str]:
        return [f"{alert.sentence} {alert.detail}" for alert in state.alerts]


class QuestionTests(PaceTestCase):
    """What the source is asked."""

    def assertAsked(self, **expected: Any) -> None:
        self.check()
        (asked,) = self.source.asked
        self.assertEqual({name: getattr(asked, name) for name in expected}, expected)

    def test_release(self) -> None:
        """It gets the version, the hash and the terms of the release in each channel."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        self.check()
        self.assertEqual(
            self.source.asked, [ChannelRelease("stable", RELEASE, digest, ALL, False, None)]
        )
        newer = self.archive(RELEASE + 1)
        self.publish(stable=self.path, beta=newer)
        self.check()
        self.assertEqual(
            [(each.channel, each.version) for each in self.source.asked],
            [("beta", RELEASE + 1), ("stable", RELEASE)],
        )

    def test_ceiling(self) -> None:
        """The ceiling is the signed rollout; a critical release is for all boxes."""
        self.publish(stable=self.path, custom=HALF)
        self.assertAsked(ceiling_bp=5000, critical=False)
        self.publish(stable=self.path, custom={**HALF, "critical": True})
        self.assertAsked(ceiling_bp=ALL, critical=True)

    def test_last(self) -> None:
        """It gets the pace in the current timestamp; without an entry, a release went to all."""
        self.assertAsked(last=None)
        self.assertAsked(last=Pace(RELEASE, ALL))
        self.hold()
        self.assertAsked(last=Pace(RELEASE, ALL, HELD))
        newer = self.archive(RELEASE + 1)
        self.source.paces = {}
        self.publish(stable=newer)
        self.assertAsked(last=None)

    def test_other_bytes(self) -> None:
        """Other bytes under the same version are a new release, but stay held."""
        self.check()
        for digit, last in (("a", None), ("b", Pace(RELEASE, ALL, HELD))):
            target = channel(self.path)
            target.hashes = {"sha256": 64 * digit}
            self.number += 1
            self.signed.targets(self.number, {"stable": target})
            self.signed.snapshot(self.number, self.number)
            self.assertAsked(last=last)
            self.hold()

    def test_channel_of_no_use(self) -> None:
        """Channels that no box can follow have no pace."""
        broken = channel(self.path, {"rollout": {"percent": 200, "salt": "x"}})
        self.signed.targets(2, {"stable": broken, "Not A Channel": channel(self.path)})
        self.signed.snapshot(2, 2)
        self.check()
        self.assertEqual(self.source.asked, [])

    def test_not_asked(self) -> None:
        """A server without the key, or with a wrong one, does not ask."""
        for key in (None, make_key()):
            self.check(key)
        self.assertEqual(self.source.asked, ())


class FieldTests(PaceTestCase):
    """The field in the timestamp."""

    def test_without(self) -> None:
        """Without a pace, a timestamp is what it is without a database, byte for byte."""
        self.check()
        with_source = self.content()
        (self.signed.folder / "timestamp.json").unlink()
        self.pace = None
        self.check()
        self.assertEqual(self.content(), with_source)
        self.assertNotIn(FIELD.encode(), with_source or b"")

    def test_changes(self) -> None:
        """Each change of the pace makes a timestamp of a higher version."""
        before = self.assertSigned("there was none", 1)
        for pace in (Pace(RELEASE, ALL, HELD), Pace(RELEASE, 500), Pace(RELEASE, 501)):
            self.source.paces = {"stable": pace}
            after = self.assertSigned("the pace has changed", 1)
            self.assertEqual(self.field(), {"stable": pace.to_json()})
            self.assertGreater(after.version, before.version)
            before = after
        self.source.paces = {}
        self.assertSigned("the pace has changed", 1)
        self.assertIsNone(self.field())

    def test_with_the_release(self) -> None:
        """The timestamp that names a release first has its pace already."""
        self.check()
        newer = self.archive(RELEASE + 1)
        self.publish(stable=newer)
        self.source.paces = {"stable": Pace(RELEASE + 1, 100)}
        self.assertSigned("names snapshot 1", 2)
        self.assertEqual(self.field(), {"stable": Pace(RELEASE + 1, 100).to_json()})

    def test_kept(self) -> None:
        """A timestamp that is signed because of its age has the same pace."""
        field = self.hold()
        self.now += 5 * DAY
        self.assertSigned("half of the old one's life is over", 1)
        self.assertEqual(self.field(), field)

    def test_tampered(self) -> None:
        """A field that does not say what it should is replaced."""
        fields: list[Any] = [[], "x", {"stable": None}, {"beta": Pace(RELEASE, 0).to_json()}]
        for wrong in fields:
            self.signed.timestamp(self.signed_version() + 1, 1, fields={FIELD: wrong})
            self.assertSigned("the pace has changed", 1)
            self.assertIsNone(self.field())

    def signed_version(self) -> int:
        self.check()
        return self.signed.read_timestamp().version

    def test_many(self) -> None:
        """Too many entries: the timestamp stays short enough, and those that hold are in it."""
        names = [f"{'x' * 28}{number:04}" for number in range(150)]
        self.publish(None, **dict.fromkeys(names, self.path))
        self.source.paces = dict.fromkeys(names, Pace(RELEASE, 5000)) | {
            names[-1]: Pace(RELEASE, ALL, HELD)
        }
        state = self.check()
        self.assertIn(
            "room for the pace of 100 channels, and 150 have one", state.alerts[0].sentence
        )
        self.assertEqual(len(self.field()), 100)
        self.assertEqual(self.field()[names[-1]]["state"], HELD)
        self.assertLess(len(self.content() or b""), max_size("timestamp.json"))


class UnknownTests(PaceTestCase):
    """While the source does not know the pace, the last one is repeated."""

    def assertRepeats(self, field: Any, alert: str = "The database is away.") -> None:
        """The timestamp is kept fresh, with this field and an alert."""
        self.now += 5 * DAY
        state = self.check()
        self.assertIsNotNone(state.signed)
        self.assertIn(alert, " ".join(self.sentences(state)))
        self.assertEqual(self.field(), field)
        self.assertIsNone(self.check().signed)

    def test_repeated(self) -> None:
        """Holds and shares stay as they are."""
        field = self.hold()
        self.lose()
        self.assertRepeats(field)
        self.source.error = None
        self.source.paces = {}
        self.assertSigned("the pace has changed", 1)
        self.assertIsNone(self.field())

    def test_release_that_is_known(self) -> None:
        """A release that went out as signed goes on so, whether the server asks or not."""
        self.check()
        self.lose()
        for asks in (False, True):
            self.source.asks = asks
            self.assertRepeats(None)

    def test_new_release(self) -> None:
        """A new release waits if the server asks; otherwise it goes as it was signed."""
        self.hold()
        newer = self.archive(RELEASE + 1)
        self.publish(stable=newer)
        self.lose()
        self.assertRepeats(None)
        (self.signed.folder / "timestamp.json").unlink()
        self.source.asks = True
        alert = f"No box installs what is new by itself until then: {RELEASE + 1}."
        self.assertRepeats({"stable": Pace(RELEASE + 1, 0).to_json()}, alert)
        self.assertRepeats({"stable": Pace(RELEASE + 1, 0).to_json()})

    def test_signed_again(self) -> None:
        """The share stays when the release is signed again with a larger ceiling."""
        self.publish(stable=self.path, custom=HALF)
        self.source.asks = True
        self.source.paces = {"stable": Pace(RELEASE, 5000)}
        self.check()
        self.lose()
        self.publish(stable=self.path)
        self.assertRepeats({"stable": Pace(RELEASE, 5000).to_json()})

    def test_targets_lost(self) -> None:
        """A hold stays if the targets of the current timestamp cannot be read."""
        field = self.hold()
        self.publish(stable=self.path)
        (self.signed.folder / "1.targets.json").unlink()
        self.lose()
        self.assertRepeats(field)

    def test_nonsense(self) -> None:
        """An answer that makes no sense is taken for none."""
        field = self.hold()
        wrong: list[Any] = [
            {"beta": Pace(RELEASE, 5)},
            {"stable": Pace(RELEASE + 1, 5)},
            {"stable": Pace(RELEASE, -1)},
            {"stable": Pace(RELEASE, ALL + 1)},
            {"stable": Pace(RELEASE, 5, "galloping")},
            {"stable": Pace(RELEASE, True)},
            {"stable": 7},
            {"stable": None},
        ]
        for self.source.paces in wrong:
            self.assertRepeats(field, "makes no sense")

    def test_not_understood(self) -> None:
        """An entry that is not understood becomes one that lets no box install by itself."""
        self.check()
        self.lose()
        entry = {"version": RELEASE, "bp": 10, "state": "galloping"}
        self.signed.timestamp(NOW + 1, 1, fields={FIELD: {"stable": entry}})
        self.assertRepeats({"stable": Pace(RELEASE, 0).to_json()})

    def test_key_rotated(self) -> None:
        """A hold outlasts the rotation of the timestamp's key; a forged one does not count."""
        field = self.hold()
        self.lose()
        self.signed.rotate("timestamp", 2)
        self.assertRepeats(field)
        forged = {FIELD: {"stable": Pace(RELEASE, 7).to_json()}}
        self.signed.timestamp(NOW + 99 * DAY, 1, signer=make_key(), fields=forged)
        self.assertRepeats(None)

    def test_one_alert(self) -> None:
        """The alert stays the same one while its text changes."""
        self.lose()
        first = self.check().alerts
        self.source.error = PaceUnknown("It is away for another reason.")
        self.assertEqual(self.check().alerts, first)

    def test_detail(self) -> None:
        """The reason, which may name the database, is for the log and not for the page."""
        self.lose()
        (alert,) = self.check().alerts
        self.assertNotIn("The database is away.", alert.sentence)
        self.assertEqual(alert.detail, "The database is away.")


class WithoutDatabaseTests(PaceTestCase):
    """A server that is started without the database which it had."""

    def setUp(self) -> None:
        super().setUp()
        self.before = self.hold()
        self.pace = None

    def test_hold_stays(self) -> None:
        """A held release stays held, and an alert says why."""
        self.assertAlerts(
            "The timestamp holds or slows the release of stable, and this server runs without "
            "--fleet-db: it repeats that until the channel names another release. Start it with "
            "--fleet-db to change the pace."
        )
        self.now += 5 * DAY
        self.check()
        self.assertEqual(self.field(), self.before)

    def test_next_release(self) -> None:
        """The next release goes as it was signed."""
        newer = self.archive(RELEASE + 1)
        self.publish(stable=newer)
        self.assertSigned("names snapshot 1", 2)
        self.assertIsNone(self.field())
        self.assertAlerts()

    def test_nothing_slowed(self) -> None:
        """A pace that takes no box away is no reason for an alert."""
        fields = {FIELD: {"stable": Pace(RELEASE, ALL).to_json()}}
        self.signed.timestamp(NOW + 5, 1, fields=fields)
        self.assertAlerts()


class FollowTests(PaceTestCase):
    """A server without the key."""

    def test_carried(self) -> None:
        """The field of the other server is left as it is, and is part of what is announced."""
        before = self.check().announced
        self.hold()
        content = self.content()
        self.source.paces = {}
        for pace in (None, self.source):
            self.pace = pace
            state = self.assertAlerts(key=None)
            timestamp: Timestamp = state.documents["timestamp"].signed
            self.assertIn(FIELD, timestamp.unrecognized_fields)
            self.assertNotEqual(state.announced, before)
        self.assertEqual(self.content(), content)


class NamesTests(PaceTestCase):
    """Order and names."""

    def test_sorted(self) -> None:
        """The entries are in the order of the channels, whatever the order of the source."""
        archives = {name: self.archive(RELEASE + number) for number, name in enumerate("cab")}
        self.publish(None, **archives)
        paces = {name: Pace(RELEASE + number, 5) for number, name in enumerate("cab")}
        self.source.paces = paces
        self.check()
        first = self.content()
        self.source.paces = dict(sorted(paces.items()))
        self.assertIsNone(self.check().signed)
        self.assertEqual(self.content(), first)
        self.assertEqual(list(self.field()), ["a", "b", "c"])
        self.assertTrue((self.updates / name_of(RELEASE)).exists())
