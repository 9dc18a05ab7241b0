"""A box reads no more of a metadata file than TUF's client does."""

from tuf.ngclient import UpdaterConfig
from twisted.trial.unittest import SynchronousTestCase

from opq_twisted.trust.metadata_files import max_size


class MaxSizeTests(SynchronousTestCase):
    """The largest sizes of metadata files."""

    def test_as_client(self) -> None:
        """The limits are those of TUF's client; a delegated role has that of targets."""
        config = UpdaterConfig()
        for name, size in (
            ("http://updates.example/tuf/2.root.json", config.root_max_length),
            ("timestamp.json", config.timestamp_max_length),
            ("3.snapshot.json", config.snapshot_max_length),
            ("4.targets.json", config.targets_max_length),
            ("5.delegated.json", config.targets_max_length),
        ):
            self.assertEqual(max_size(name), size, name)
