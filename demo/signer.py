"""Makes the keys that boxes trust, and signs releases with the real `opq-release`."""

import secrets
import shutil
import sys
from pathlib import Path

from demo.programs import run


class Signer:
    """Holds the keys, and puts releases into an updates directory."""

    def __init__(self, folder: Path) -> None:
        #: The updates directory.
        self.updates = folder / "updates"
        #: The file of the root that boxes trust.
        self.trusted_root = folder / "root.json"
        #: The file with the passphrase of each key.
        self.passphrase = folder / "passphrase"
        self._keys = folder / "keys"
        self.updates.mkdir()

    @property
    def timestamp_key(self) -> Path:
        """The timestamp's key, for the update server."""
        [path] = self._keys.glob("timestamp-*.pem")
        return path

    def make_keys(self) -> None:
        """Create all keys; in a real ceremony each root key is kept in another place."""
        self.passphrase.touch(mode=0o600)
        self.passphrase.write_text(f"{secrets.token_hex()}\n")
        self._release("init")
        shutil.copy(self.updates / "tuf" / "1.root.json", self.trusted_root)

    def publish(self, archive: Path, *options: str) -> None:
        """Publish a release."""
        self._release("publish", *options, archive)

    def _release(self, command: str, *arguments: str | Path) -> None:
        """Run opq-release as the holder of the keys."""
        run(
            Path(sys.executable).with_name("opq-release"),
            command,
            f"--updates-dir={self.updates}",
            f"--keys-dir={self._keys}",
            f"--passphrase-file={self.passphrase}",
            *arguments,
        )
