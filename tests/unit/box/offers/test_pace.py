"""The pace that a timestamp gives a signed release: read, refused, and never more than signed."""

import json
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile, Timestamp
from tuf.ngclient import Updater
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.archive.release import Release
from opq_twisted.box.config.settings import BoxConfig, UpdaterConfig
from opq_twisted.box.offers.policy import Policy
from opq_twisted.box.state.journal import Journal
from opq_twisted.box.state.versions import Installed
from opq_twisted.common.errors import OlderCopy, OpqError, Untrusted
from opq_twisted.trust.offer import Offer, Rollout
from opq_twisted.trust.pace import ALL, BAKING, FIELD, HELD, UNKNOWN, Pace, read_pace
from opq_twisted.trust.tuf_client import Fetched
from tests.helpers.box_fakes import NEW, NEWER, OLD
from tests.helpers.signed_metadata import make_key
from tests.helpers.torture import examples
from tests.unit.box.offers.test_lookup import ReleasesCase

HASHES = {"sha256": "ab" * 32}

#: Canonical JSON has no fractions.
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)

_ENTRIES = _JSON | st.fixed_dictionaries(
    {},
    optional={
        "version": st.sampled_from([OLD, NEW, NEWER]) | _JSON,
        "bp": st.integers(-1, ALL + 1) | _JSON,
        "state": st.sampled_from([HELD, BAKING, UNKNOWN, "done"]) | _JSON,
        "more": _JSON,
    },
)

#: Anything that the timestamp's key may sign there, most of it close to a pace.
_FIELDS = st.dictionaries(st.sampled_from(["stable", "beta"]), _ENTRIES) | _JSON

_ROLLOUTS = st.none() | st.builds(Rollout, st.integers(0, 100), st.sampled_from(["x1", "x2"]))


def stable(version: int, bp: int, state: str = BAKING) -> dict[str, Any]:
    """Make the field of the pace of a release in the channel `stable`."""
    return {"stable": Pace(version, bp, state).to_json()}


class Rule:
    """The real policy of a box."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._installed = Installed(folder / "VERSION", folder / "IMAGE_VERSION")
        self._journal = Journal(folder / "journal.json", "a boot")

    def block(self, release: Release) -> None:
        self._journal.block(release, "It failed.")

    def take(self, offer: Offer, box_id: int, installed: int | None) -> Release | None:
        """Give the release that a box installs by itself; None if it installs none."""
        self._installed.running = installed
        config = BoxConfig("http://updates.example", box_id, UpdaterConfig())
        policy = Policy(config, self._installed, self._journal, lambda: float(NEWER))
        chosen = policy.choose(offer, automatic=True)
        return chosen.release if policy.is_due(chosen) else None


class NeverMoreTests(SynchronousTestCase):
    """Nothing in the field lets a box install what it would not install without it."""

    @examples(150)
    @given(st.data())
    def test_any_field(self, data: st.DataObject) -> None:
        """Whatever the timestamp says, a box takes what the release key signed for it, or less."""
        rule = Rule(Path(self.mktemp()))
        before = data.draw(st.none() | st.just(Offer(NEW, 2, HASHES, signed=True)))
        offer = Offer(
            NEWER,
            1,
            HASHES,
            critical=data.draw(st.booleans()),
            allow_downgrade=data.draw(st.booleans()),
            rollout=data.draw(_ROLLOUTS),
            before=before,
            signed=True,
        )
        blocked = data.draw(st.none() | st.sampled_from([offer, before or offer]))
        if blocked is not None:
            rule.block(blocked.release)
        timestamp = _write_and_read(data.draw(_FIELDS))
        channel = data.draw(st.sampled_from(["stable", "beta"]))
        paced = evolve(offer, pace=read_pace(timestamp, channel, NEWER))
        installed = data.draw(st.sampled_from([None, OLD, NEW, NEWER, NEWER + 1]))
        for box_id in data.draw(st.lists(st.integers(0, 50_000), min_size=1, max_size=5)):
            taken = rule.take(paced, box_id, installed)
            self.assertIn(taken, (None, rule.take(offer, box_id, installed)))


def _write_and_read(field: Any) -> Timestamp:
    """Make a timestamp with this field, as it arrives in a file."""
    made = Timestamp(1, snapshot_meta=MetaFile(1), unrecognized_fields={FIELD: field})
    return Metadata[Timestamp].from_bytes(Metadata(made).to_bytes()).signed


class PaceCase(ReleasesCase):
    """A box with a trusted root, and a server whose timestamps have a pace."""

    def setUp(self) -> None:
        super().setUp()
        self.trust()

    def pace(self) -> Pace | None:
        """Look up the newest release, and give its pace."""
        offer = self.newest()
        assert offer is not None
        self.assertEqual(offer.version, NEW)
        return offer.pace


class ReadTests(PaceCase):
    """A pace that the server has signed."""

    def test_none(self) -> None:
        """Without the field a release goes as it was signed."""
        self.assertIsNone(self.pace())

    def test_changes(self) -> None:
        """The pace is that of the newest timestamp, and may vanish again."""
        for version, (field, pace) in enumerate(
            [
                (stable(NEW, 500), Pace(NEW, 500)),
                (stable(NEW, 500, HELD), Pace(NEW, 500, HELD)),
                (stable(NEW, 2000), Pace(NEW, 2000)),
                (stable(NEWER, 0, HELD), None),
                ({"beta": Pace(NEW, 0, HELD).to_json()}, None),
                (stable(NEW, 0), Pace(NEW, 0)),
            ],
            2,
        ):
            self.signed.timestamp(version, 1, fields={FIELD: field})
            self.assertEqual(self.pace(), pace)
        self.signed.timestamp(version + 1, 1)
        self.assertIsNone(self.pace())

    def test_kept(self) -> None:
        """The pace counts also if the timestamp is the same as before, and after a restart."""
        self.signed.timestamp(2, 1, fields={FIELD: stable(NEW, 500)})
        self.assertEqual(self.pace(), Pace(NEW, 500))
        self.assertEqual(self.pace(), Pace(NEW, 500))
        self.releases = self.make()
        self.assertEqual(self.pace(), Pace(NEW, 500))

    def test_release_before(self) -> None:
        """The release before has no pace: it is for all boxes."""
        before = {"length": 1, "hashes": HASHES, "custom": {"version": OLD, "file": _name(OLD)}}
        self.signed.publish(2, self.archive, custom={"before": before})
        self.signed.timestamp(2, 2, fields={FIELD: stable(NEW, 0)})
        offer = self.newest()
        assert offer is not None
        assert offer.before is not None
        self.assertEqual((offer.pace, offer.before.pace), (Pace(NEW, 0), None))

    def test_unsigned(self) -> None:
        """A box without a trusted root knows no pace."""
        self.trusted_root.unlink()
        self.signed.timestamp(2, 1, fields={FIELD: stable(NEWER, 0, HELD)})
        self.assertEqual(self.newest(), Offer(NEWER))

    def test_older_client(self) -> None:
        """A client of TUF that does not know the field accepts the timestamp, and ignores it."""
        self.signed.timestamp(2, 1, fields={FIELD: stable(NEW, 0, HELD)})
        fetched = Fetched()
        for path in self.signed.folder.iterdir():
            fetched.keep(f"http://updates.example/{path.name}", path.read_bytes())
        root = (self.signed.folder / "1.root.json").read_bytes()
        cache = self.box / "older"
        cache.mkdir()
        fetched.keep("http://updates.example/2.root.json", DownloadHTTPError("there is none", 404))
        updater = Updater(
            str(cache),
            "http://updates.example/",
            fetcher=fetched,
            bootstrap=root,
        )
        updater.refresh()
        self.assertIsNotNone(updater.get_targetinfo("stable"))


class AttackTests(PaceCase):
    """A pace from somebody who wants to stop a rollout, or to speed it up."""

    def setUp(self) -> None:
        super().setUp()
        self.signed.timestamp(2, 1, fields={FIELD: stable(NEW, 500)})
        self.assertEqual(self.pace(), Pace(NEW, 500))
        self.timestamp = self.signed.folder / "timestamp.json"

    def assert_refused(self, kind: type[OpqError]) -> None:
        """The lookup fails, and changes nothing."""
        kept = (self.box / "tuf" / "timestamp.json").read_bytes()
        self.assert_fails(kind)
        self.assertEqual((self.box / "tuf" / "timestamp.json").read_bytes(), kept)

    def test_altered(self) -> None:
        """A pace that somebody else changed on the way is refused."""
        for change in ({"bp": ALL}, {"state": HELD}, {"version": NEWER}):
            signed = self.signed.timestamp(3, 1, fields={FIELD: stable(NEW, 500)})
            content = json.loads(signed.to_bytes())
            content["signed"][FIELD]["stable"].update(change)
            self.timestamp.write_text(json.dumps(content))
            self.assert_refused(Untrusted)

    def test_removed(self) -> None:
        """So is a timestamp whose field somebody has cut out."""
        content = json.loads(self.signed.timestamp(3, 1, fields={FIELD: stable(NEW, 0)}).to_bytes())
        del content["signed"][FIELD]
        self.timestamp.write_text(json.dumps(content))
        self.assert_refused(Untrusted)

    def test_other_key(self) -> None:
        """So is a pace that another key has signed."""
        self.signed.timestamp(3, 1, fields={FIELD: stable(NEW, ALL)}, signer=make_key())
        self.assert_refused(Untrusted)

    def test_replayed(self) -> None:
        """An older timestamp is refused, however validly it was signed."""
        earlier = self.timestamp.read_bytes()
        self.signed.timestamp(3, 1, fields={FIELD: stable(NEW, 500, HELD)})
        self.assertEqual(self.pace(), Pace(NEW, 500, HELD))
        self.timestamp.write_bytes(earlier)
        self.assert_refused(OlderCopy)

    def test_same_version(self) -> None:
        """Another pace in a timestamp of the same version is ignored: the first one stays."""
        self.signed.timestamp(2, 1, fields={FIELD: stable(NEW, ALL)})
        self.assertEqual(self.pace(), Pace(NEW, 500))

    def test_malformed(self) -> None:
        """With an entry that is not understood, no box installs the release by itself."""
        fields: list[Any] = [
            None,
            [],
            "held",
            {"stable": 7},
            {"stable": None},
            {"stable": {**stable(NEW, 500)["stable"], "bp": "500"}},
            {"stable": {**stable(NEW, 500)["stable"], "state": "<b>"}},
            {"stable": _nested(200)},
        ]
        for version, field in enumerate(fields, 3):
            self.signed.timestamp(version, 1, fields={FIELD: field})
            self.assertEqual(self.pace(), Pace(NEW, 0, UNKNOWN))

    def test_deep(self) -> None:
        """A field that is nested too deep to be read is refused, and stops nothing else."""
        for depth in (300, 900, 3000):
            content = self.signed.timestamp(3, 1, fields={FIELD: {"stable": 1}}).to_bytes()
            deep = b"[" * depth + b"1" + b"]" * depth
            self.timestamp.write_bytes(content.replace(b'"stable":1', b'"stable":' + deep))
            self.assert_refused(Untrusted)

    @examples(20)
    @given(_FIELDS, _ROLLOUTS, st.booleans(), st.lists(st.integers(0, 50_000), max_size=5))
    def test_any_field(
        self, field: Any, rollout: Rollout | None, critical: bool, boxes: list[int]
    ) -> None:
        """Whatever the key signs, a box that reads it installs nothing more by itself."""
        version = self.signed.read_timestamp().version + 1
        custom: dict[str, Any] = {"critical": critical}
        if rollout is not None:
            custom["rollout"] = {"percent": rollout.percent, "salt": rollout.salt}
        self.signed.publish(version, self.archive, custom=custom)
        self.signed.timestamp(version, version, fields={FIELD: field})
        offer = self.newest()
        assert offer is not None
        rule = Rule(Path(self.mktemp()))
        for box_id in boxes:
            taken = rule.take(offer, box_id, OLD)
            self.assertIn(taken, (None, rule.take(evolve(offer, pace=None), box_id, OLD)))


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _name(version: int) -> str:
    return f"opq-box-update-{version}.tar.bz2"
