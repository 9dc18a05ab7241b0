"""
The client for TUF's conformance suite, made of the code that a box runs.

The suite is https://github.com/theupdateframework/tuf-conformance; its CLIENT-CLI.md describes the
commands. Options come before the command.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn
from urllib.parse import quote

from attrs import frozen
from tuf.api.metadata import Metadata, Root, TargetFile
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.web.http import FORBIDDEN, NOT_FOUND
from twisted.web.iweb import IResponse

from opq_twisted.box.download.resumable import fetch
from opq_twisted.box.download.verify import Content, open_file, verify
from opq_twisted.box.network.http_agent import make_http_clients
from opq_twisted.box.network.update_server import UpdateServerClient
from opq_twisted.box.offers.tuf_lookup import SignedMetadata
from opq_twisted.common import files
from opq_twisted.common.errors import DownloadFailed, OpqError, Untrusted

#: The file of the initial root; not `*.json`, because those files are the trusted metadata.
_TRUSTED_ROOT = "trusted_root"


class _Parser(argparse.ArgumentParser):
    """Ends with 1 for a wrong command line: the protocol has no other exit code."""

    def error(self, message: str) -> NoReturn:
        raise SystemExit(f"The client is not called as it must be: {message}.")


class _Server(UpdateServerClient):
    """Treats 403 for a root as 404: hosts of static files answer so for missing files."""

    async def get(self, url: str, *arguments: Any, **keywords: Any) -> IResponse:
        response = await super().get(url, *arguments, **keywords)
        if response.code == FORBIDDEN and url.endswith(".root.json"):
            response.code = NOT_FOUND
        return response


@frozen
class _Client:
    """One call of the client."""

    _reactor: Any
    _options: argparse.Namespace

    async def init(self) -> None:
        """Store the root that is trusted from the start."""
        folder: Path = self._options.metadata_dir
        root = self._options.root.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        files.write(folder / _TRUSTED_ROOT, root)
        files.write(folder / "root.json", root)

    async def refresh(self) -> None:
        """Refresh the metadata."""
        await self._find(None)

    async def download(self) -> None:
        """Download targets."""
        for name in self._options.target_name:
            target = await self._find(name)
            if target is None:
                raise Untrusted(f"No target of the name {name!r} is signed.")
            await self._store(target)

    def _server(self, url: str) -> UpdateServerClient:
        http = make_http_clients(self._reactor)
        return _Server(self._reactor, http, url.rstrip("/"), lambda: "opq-conformance-client")

    async def _find(self, name: str | None) -> TargetFile | None:
        folder, url = self._options.metadata_dir, self._options.metadata_url
        try:
            root = (folder / _TRUSTED_ROOT).read_bytes()
        except OSError as error:
            raise Untrusted(
                f"The trusted root in {folder} cannot be read: {error.strerror}. Call init first."
            ) from None
        metadata = SignedMetadata(self._reactor, self._server(url).read, folder)
        return await metadata.find(url, root, name)

    async def _store(self, target: TargetFile) -> None:
        """Download a target, unless it is there."""
        folder: Path = self._options.target_dir
        place = folder / quote(target.path, "")
        expected = Content(target.length, target.hashes)
        try:
            await self._require(place, expected)
        except DownloadFailed:
            folder.mkdir(parents=True, exist_ok=True)
            # In a temporary folder, so that no part of it can stay.
            with TemporaryDirectory(prefix=".", dir=folder) as temporary:
                part = Path(temporary, "target")
                await self._fetch(target, part, expected)
                await self._require(part, expected)
                files.rename(part, place)

    async def _require(self, path: Path, expected: Content) -> None:
        with open_file(path) as file:
            await verify(file, expected)

    async def _fetch(self, target: TargetFile, path: Path, expected: Content) -> None:
        if not target.length:
            # An empty target needs no request.
            path.touch()
            return
        server, url = self._server(self._options.target_base_url), self._url(target)
        fetching = Deferred.fromCoroutine(
            fetch(self._reactor, server, url, expected, path, target.length)
        )
        await fetching.addTimeout(self._options.timeout, self._reactor, _too_late)

    def _url(self, target: TargetFile) -> str:
        """Return the URL of a target, whose path is in the form of a URL already."""
        folder, slash, name = target.path.rpartition("/")
        root = Metadata[Root].from_file(str(self._options.metadata_dir / "root.json")).signed
        if root.consistent_snapshot:
            name = f"{next(iter(target.hashes.values()))}.{name}"
        path = quote(f"{folder}{slash}{name}", safe="%/~!@$&'()*+,;=:")
        return f"{self._options.target_base_url.rstrip('/')}/{path}"


def _too_late(_: object, timeout: float) -> NoReturn:
    raise DownloadFailed(f"The target did not come within {timeout:.0f} seconds.")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    # Seconds for one target: the suite does not wait for all the attempts of a box.
    parser.add_argument("--timeout", type=float, default=30.0)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    for command, required in (
        ("refresh", ("metadata_url",)),
        ("download", ("metadata_url", "target_name", "target_dir", "target_base_url")),
    ):
        commands.add_parser(command).set_defaults(required=required)
    options = parser.parse_args(arguments)
    for name in getattr(options, "required", ()):
        if not getattr(options, name):
            parser.error(f"{options.command} needs --{name.replace('_', '-')}")
    return options


async def _run(reactor: Any, arguments: list[str]) -> None:
    options = _parse(arguments)
    try:
        await getattr(_Client(reactor, options), options.command)()
    except CancelledError:
        raise SystemExit("The client was interrupted.") from None
    except OSError as error:
        raise SystemExit(f"{error.filename} cannot be used: {error.strerror}.") from None
    except (OpqError, ValueError) as error:
        raise SystemExit(str(error)) from None


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """Run one command; a failure is one sentence, and exit code 1."""
    running = Deferred.fromCoroutine(_run(reactor, list(arguments)))
    # Without this, an interrupted client would end with 0, and leave a part behind.
    reactor.addSystemEventTrigger("before", "shutdown", running.cancel)
    return running


if __name__ == "__main__":
    react(main, sys.argv[1:])
