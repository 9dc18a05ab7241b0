"""An update server that responds like the older one: one thread, HTTP/1.0, no validators."""

import argparse
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class OlderServer(HTTPServer):
    """Serves a directory of archives; the names are sorted as text."""

    def __init__(self, directory: Path, tells_length: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.tells_length = tells_length

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("opq-box-update-*.tar.bz2"))


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: OlderServer

    def do_GET(self) -> None:
        names = self.server.names()
        kind, _, name = self.path.removeprefix("/").partition("/")
        if kind == "":
            self._answer(200, b"")
        elif kind == "ls":
            self._answer(200, "".join(f"{name}\n" for name in names).encode())
        elif kind == "version" and names:
            self._answer(200, names[-1].removeprefix("opq-box-update-").split(".")[0].encode())
        elif kind == "latest" and names:
            self._answer(303, b"", {"Location": f"/update/{names[-1]}"})
        elif kind == "update" and name in names:
            self._send_archive(name)
        else:
            self._answer(404, b"")

    def _send_archive(self, name: str) -> None:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        self._answer(200, (self.server.directory / name).read_bytes(), headers)

    def _answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in (headers or {"Content-Type": "text/plain"}).items():
            self.send_header(key, value)
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="the folder with the archives")
    parser.add_argument("--no-length", action="store_true", help="send no Content-Length")
    options = parser.parse_args()
    with OlderServer(options.directory, not options.no_length) as server:
        print(f"BaseHTTPServer starting on {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
