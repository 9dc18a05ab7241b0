"""Tests of the client for TUF's conformance suite, called as the suite calls it."""

import contextlib
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
)
from twisted.trial.unittest import SynchronousTestCase

from tests.helpers import forked_python
from tests.helpers.project import PROJECT
from tests.helpers.signed_metadata import Signed, make_key

CLIENT = PROJECT / "tests" / "conformance" / "client.py"
#: Starts it as the suite does.
STARTER = CLIENT.with_suffix("")

#: The requests of a client that knows only the root.
FIRST = ["/tuf/2.root.json", "/tuf/timestamp.json", "/tuf/1.snapshot.json", "/tuf/1.targets.json"]


class Repository(ThreadingHTTPServer):
    """A host of static files on loopback."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        #: The requested paths, in order.
        self.requests: list[str] = []
        #: The status of an answer for a missing file.
        self.missing = 404
        #: When the rest of a target is sent.
        self.rest = threading.Event()
        self.rest.set()
        #: Set when a target was requested.
        self.asked = threading.Event()

    def read(self, path: str) -> bytes | None:
        """Read a file; the name of a role is always percent-encoded."""
        self.requests.append(path)
        name = path if path.startswith("/tuf/") else unquote(path)
        file = self._folder / name.lstrip("/")
        return file.read_bytes() if file.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        data = self.server.read(self.path)
        if data is None:
            self.send_error(self.server.missing)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path.startswith("/targets/"):
            self.server.asked.set()
            self.wfile.write(data[:1])
            data = data[1:]
            self.server.rest.wait()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class ConformanceCase(SynchronousTestCase):
    """A client with its two folders, and a repository."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.metadata = self.folder / "client" / "metadata"
        self.targets = self.folder / "client" / "targets"
        self.signed = Signed(self.folder).init()
        self.expected: dict[str, TargetFile] = {}
        self.version = 0
        self.repository = Repository(self.folder)
        serving = threading.Thread(target=self.repository.serve_forever, args=(0.01,), daemon=True)
        serving.start()
        self.addCleanup(serving.join)
        self.addCleanup(self.repository.server_close)
        self.addCleanup(self.repository.shutdown)

    @property
    def requests(self) -> list[str]:
        return self.repository.requests

    def publish(self, **contents: bytes) -> None:
        """Publish a new version of everything, with these targets added."""
        for path, content in contents.items():
            self.add(path, content)
        self.version += 1
        self.signed.targets(self.version, self.expected)
        self.signed.snapshot(self.version, self.version)
        self.signed.timestamp(self.version, self.version)

    def add(self, path: str, content: bytes) -> Path:
        """Add a target to the next publication; return the file that is served."""
        target = TargetFile.from_data(path, content, ["sha256"])
        self.expected[path] = target
        folder, _, name = unquote(path).rpartition("/")
        file = self.folder / "targets" / folder / f"{target.hashes['sha256']}.{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def call(self, *arguments: str | Path) -> int:
        """Call the client; a failure prints one line."""
        self.requests.clear()
        ended = forked_python.run(CLIENT, arguments, os.environ, "tests.conformance.client")
        self.said = ended.stderr
        self.assertIn(ended.returncode, (0, 1), ended.stderr)
        self.assertEqual(ended.stderr.count("\n"), ended.returncode, ended.stderr)
        self.assertEqual(ended.stdout, "")
        return ended.returncode

    def init(self) -> int:
        return self.call(
            "--metadata-dir", self.metadata, "init", self.signed.folder / "1.root.json"
        )

    def refresh(self) -> int:
        url = f"{self.repository.url}/tuf/"
        return self.call("--metadata-url", url, "--metadata-dir", self.metadata, "refresh")

    def download(self, *names: str, timeout: float = 30.0) -> int:
        return self.call("--timeout", str(timeout), *self.to_download(*names))

    def to_download(self, *names: str) -> list[str | Path]:
        """The arguments that request these targets."""
        return [
            *("--metadata-url", f"{self.repository.url}/tuf", "--metadata-dir", self.metadata),
            *(argument for name in names for argument in ("--target-name", name)),
            *("--target-dir", self.targets),
            *("--target-base-url", f"{self.repository.url}/targets/", "download"),
        ]

    def fetched(self) -> list[str]:
        """The targets that were requested during the last call."""
        return [path for path in self.requests if path.startswith("/targets/")]

    def versions(self) -> dict[str, int]:
        """The versions of the trusted metadata, by file."""
        return {
            path.name.removesuffix(".json"): Metadata.from_file(str(path)).signed.version
            for path in self.metadata.glob("*.json")
        }

    def stored(self) -> dict[str, bytes]:
        """Everything in the folder of the targets."""
        return {
            str(path.relative_to(self.targets)): path.read_bytes() if path.is_file() else b"?"
            for path in self.targets.rglob("*")
        }


class InitTests(ConformanceCase):
    """`init`."""

    def test_init(self) -> None:
        """The root is trusted, without a request."""
        self.assertEqual(self.init(), 0)
        self.assertEqual(self.versions(), {"root": 1})
        self.assertEqual(self.requests, [])

    def test_invalid_root(self) -> None:
        """With an invalid root nothing is refreshed, and nothing is requested."""
        self.publish()
        self.signed.root(1, signers=[make_key()])
        self.init()
        self.assertEqual(self.refresh(), 1)
        self.assertEqual(self.requests, [])

    def test_called_wrongly(self) -> None:
        """A wrong command line is a failure like any other."""
        self.assertEqual(self.call("refresh"), 1)
        self.assertEqual(self.call("--metadata-dir", self.metadata, "refresh"), 1)
        self.assertIn("--metadata-url", self.said)
        self.assertEqual(self.refresh(), 1)
        self.assertIn("Call init first", self.said)

    def test_link(self) -> None:
        """The client may be called through a link, and from another folder."""
        linked = self.folder / "linked"
        linked.symlink_to(STARTER)
        root = self.signed.folder / "1.root.json"
        command: list[str | Path] = [linked, "--metadata-dir", self.metadata, "init", root]
        done = subprocess.run(command, cwd="/", capture_output=True, check=True)
        self.assertEqual((done.stdout, done.stderr), (b"", b""))
        self.assertEqual(self.versions(), {"root": 1})


class RefreshTests(ConformanceCase):
    """`refresh`."""

    def setUp(self) -> None:
        super().setUp()
        self.publish()
        self.init()

    def test_refresh(self) -> None:
        """Every new file is fetched once, and stored unchanged."""
        self.assertEqual(self.refresh(), 0)
        self.assertEqual(self.requests, FIRST)
        self.assertEqual(self.versions(), {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1})
        kept = (self.metadata / "snapshot.json").read_bytes()
        self.assertEqual(kept, (self.signed.folder / "1.snapshot.json").read_bytes())
        self.assertEqual(self.refresh(), 0)
        self.assertEqual(self.requests, FIRST[:2])

    def test_forbidden(self) -> None:
        """A 403 for a newer root means that there is none; for another file it is a failure."""
        self.repository.missing = 403
        self.assertEqual(self.refresh(), 0)
        (self.signed.folder / "timestamp.json").unlink()
        self.assertEqual(self.refresh(), 1)

    def test_rollback(self) -> None:
        """An older timestamp, snapshot or targets file is refused."""
        old = (self.signed.folder / "timestamp.json").read_bytes()
        self.publish()
        self.assertEqual(self.refresh(), 0)
        trusted = {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
        (self.signed.folder / "timestamp.json").write_bytes(old)
        self.assertEqual(self.refresh(), 1)
        self.assertEqual(self.versions(), trusted)
        self.signed.timestamp(3, 1)
        self.assertEqual(self.refresh(), 1)
        self.assertEqual(self.versions(), trusted)
        self.signed.snapshot(3, 1)
        self.signed.timestamp(4, 3)
        self.assertEqual(self.refresh(), 1)
        self.assertEqual(self.versions()["targets"], 2)

    def test_expired(self) -> None:
        """Expired metadata is refused; the trusted metadata does not change."""
        self.signed.timestamp(2, 1, days=-1)
        self.assertEqual(self.refresh(), 1)
        self.assertEqual(self.versions(), {"root": 1})
        self.assertIn("has expired", self.said)

    def test_wrong_key(self) -> None:
        """Metadata with a wrong signature is refused, and nothing after it is requested."""
        right = dict(self.signed.keys)
        for role, trusted in (
            ("timestamp", {"root": 1}),
            ("snapshot", {"root": 1, "timestamp": 3}),
            ("targets", {"root": 1, "timestamp": 4, "snapshot": 4}),
        ):
            self.signed.keys = {**right, role: make_key()}
            self.publish()
            self.assertEqual(self.refresh(), 1)
            self.assertEqual(self.versions(), trusted)
        self.signed.root(2, signers=[make_key()])
        self.assertEqual(self.refresh(), 1)
        self.assertEqual(self.requests, ["/tuf/2.root.json"])
        self.assertEqual(self.versions()["root"], 1)

    def test_rotation(self) -> None:
        """New keys come from new roots, and each root is fetched."""
        for number, role in enumerate(("timestamp", "snapshot", "targets", "root", "root"), 2):
            self.signed.rotate(role, number)
        self.publish()
        self.assertEqual(self.refresh(), 0)
        self.assertEqual(self.requests[:6], [f"/tuf/{number}.root.json" for number in range(2, 8)])
        self.assertEqual(self.versions(), {"root": 6, "timestamp": 2, "snapshot": 2, "targets": 2})
        self.assertEqual(self.refresh(), 0)
        self.assertEqual(self.requests, ["/tuf/7.root.json", "/tuf/timestamp.json"])


class DownloadTests(ConformanceCase):
    """`download`."""

    def setUp(self) -> None:
        super().setUp()
        self.init()

    def test_download(self) -> None:
        """The metadata is refreshed, and the target is stored and not fetched again."""
        self.publish(**{"path/to/file.txt": b"content"})
        for fetched in (1, 0):
            self.assertEqual(self.download("path/to/file.txt"), 0)
            self.assertEqual(self.stored(), {"path%2Fto%2Ffile.txt": b"content"})
            self.assertEqual(len(self.fetched()), fetched)
        self.assertEqual(self.versions()["targets"], 1)

    def test_changed(self) -> None:
        """A changed target replaces the old one, and a damaged one is fetched again."""
        self.publish(a=b"first")
        self.download("a")
        self.publish(a=b"second")
        self.assertEqual(self.download("a"), 0)
        self.assertEqual(self.stored(), {"a": b"second"})
        for damage in (b"secret", b""):
            (self.targets / "a").write_bytes(damage)
            self.assertEqual(self.download("a"), 0)
            self.assertEqual(self.stored(), {"a": b"second"})
            self.assertEqual(len(self.fetched()), 1)

    def test_bad_content(self) -> None:
        """A file that differs from the signed one is not stored, and removes nothing."""
        self.publish(a=b"first")
        self.download("a")
        self.add("a", b"second").write_bytes(b"secret")
        self.add("b", b"short").write_bytes(b"longer than that")
        self.add("c", b"rather long").write_bytes(b"short")
        self.add("d", b"gone").unlink()
        self.publish()
        for name in "abcd":
            with self.subTest(name=name):
                self.assertEqual(self.download(name, timeout=1), 1)
                self.assertEqual(self.stored(), {"a": b"first"})

    def test_interrupted(self) -> None:
        """An interrupted client fails, and leaves nothing behind."""
        self.publish(a=b"content")
        self.repository.rest.clear()
        self.addCleanup(self.repository.rest.set)
        with subprocess.Popen([STARTER, *self.to_download("a")], stderr=subprocess.PIPE) as client:
            self.assertTrue(self.repository.asked.wait(60))
            client.terminate()
            _, said = client.communicate(timeout=60)
        self.assertEqual((client.returncode, said), (1, b"The client was interrupted.\n"))
        self.assertEqual(self.stored(), {})

    def test_unknown(self) -> None:
        """A target that is not signed is a failure, after the metadata was refreshed."""
        self.publish()
        self.assertEqual(self.download("nothing"), 1)
        self.assertIn("'nothing'", self.said)
        self.assertEqual(self.requests, FIRST)
        self.assertEqual(self.versions()["targets"], 1)

    def test_several(self) -> None:
        """One call fetches several targets, one of them empty."""
        self.publish(a=b"1", b=b"", c=b"3")
        self.assertEqual(self.download("c", "b", "a"), 0)
        self.assertEqual(self.stored(), {"a": b"1", "b": b"", "c": b"3"})

    def test_names(self) -> None:
        """A path is requested as it was signed, because it is in the form of a URL."""
        names = ("a%20b/%C3%A9.txt", "a b", "(x)+~!@$&'=;,_-", "../up")
        self.publish(**dict.fromkeys(names, b"content"))
        for name, encoded in zip(names[:2], ("a%20b/{}.%C3%A9.txt", "{}.a%20b"), strict=True):
            with self.subTest(name=name):
                self.assertEqual(self.download(name), 0)
                digest = self.expected[name].hashes["sha256"]
                self.assertEqual(self.fetched(), [f"/targets/{encoded.format(digest)}"])
        self.assertEqual(self.download(names[2]), 0)
        # Even if the request succeeds, nothing is stored elsewhere.
        self.download(names[3])
        self.assertLessEqual(set(self.stored()), {quote(name, "") for name in names})
        self.assertEqual(
            sorted(path.name for path in self.targets.parent.iterdir()), ["metadata", "targets"]
        )

    def test_plain_names(self) -> None:
        """Without consistent snapshots neither versions nor hashes are in the names."""
        root = self.signed.root(1)
        root.signed.consistent_snapshot = False
        self.signed.write(root, self.signed.keys[Root.type])
        self.init()
        self.publish(a=b"content")
        for role in ("snapshot", "targets"):
            (self.signed.folder / f"1.{role}.json").rename(self.signed.folder / f"{role}.json")
        (self.folder / "targets" / "a").write_bytes(b"content")
        self.assertEqual(self.download("a"), 0)
        self.assertEqual(
            self.requests[1:],
            ["/tuf/timestamp.json", "/tuf/snapshot.json", "/tuf/targets.json", "/targets/a"],
        )


class DelegationTests(ConformanceCase):
    """Targets that a delegated role signs."""

    def delegate(self, role: str) -> None:
        """Let a role of this name sign the target `a`."""
        self.add("a", b"content")
        key, expires = make_key(), self.signed.later(365)
        delegated = Metadata(Targets(1, expires=expires, targets=self.expected))
        delegated.sign(key)
        (self.signed.folder / f"1.{quote(role, '')}.json").write_bytes(delegated.to_bytes())
        keyid = key.public_key.keyid
        delegations = Delegations(
            {keyid: key.public_key}, {role: DelegatedRole(role, [keyid], 1, False, ["*"])}
        )
        top = Metadata(Targets(1, expires=expires, delegations=delegations))
        self.signed.write(top, self.signed.keys[Targets.type])
        meta = {"targets.json": MetaFile(1), f"{role}.json": MetaFile(1)}
        snapshot = Metadata(Snapshot(1, expires=expires, meta=meta))
        self.signed.write(snapshot, self.signed.keys[Snapshot.type])
        self.signed.timestamp(1, 1)

    def test_names(self) -> None:
        """The role has its encoded name on the server and in the client's folder."""
        roles = ("role1", "../role", "?", "#", "/role", "r\u00f6le %2F")
        for number, role in enumerate(roles):
            with self.subTest(role=role):
                self.metadata = self.folder / f"metadata{number}"
                self.targets = self.folder / f"targets{number}"
                self.delegate(role)
                self.assertEqual(self.init(), 0)
                self.assertEqual(self.download("a"), 0, self.said)
                self.assertEqual(self.requests[4], f"/tuf/1.{quote(role, '')}.json")
                self.assertEqual(len(self.versions()), 5)
                self.assertEqual(self.stored(), {"a": b"content"})

    def test_wrong_key(self) -> None:
        """Metadata that another key has signed is refused."""
        self.delegate("role1")
        self.init()
        path = self.signed.folder / "1.role1.json"
        forged = Metadata[Targets].from_file(str(path))
        forged.sign(make_key())
        path.write_bytes(forged.to_bytes())
        self.assertEqual(self.download("a"), 1)
        self.assertEqual(sorted(self.versions()), ["root", "snapshot", "targets", "timestamp"])
        self.assertFalse(self.targets.exists())
