"""A server for one browser on this machine: the page, its data, its films, and word of changes."""

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from proximo.errors import UserError
from proximo.views.report.page import as_json, html
from proximo.views.watch.follow import Follower

HOST = "127.0.0.1"
PORT = 6070
TRIED = 50
"""Ports that are tried, from the first one on."""
LOOK = 0.5
PING = 15.0
"""Seconds between two looks for a change, and between two signs of life to a browser that waits."""


def watch(
    where: str | PathLike[str], *, port: int = PORT, said: Callable[[str], None] = lambda text: print(text, flush=True)
) -> None:
    """Show runs in a browser while they go on, until Ctrl-C: the page of `proximo.report`, always as it is now.

    Only programs on this machine are answered, and only with what the page shows.

    Args:
        where: folder of a run, or one with runs below it, which are all listed.
        port: to be served on; the next free one if it is taken, any if it is 0.
        said: told the address.

    Raises:
        UserError: there is no such folder, no free port, or one that this user may not open.
    """
    with open_server(where, port) as server:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
        if port and server.server_port != port:
            said(f"port {port} is taken")
        said(f"watch {where} at http://{HOST}:{server.server_port}/ (Ctrl-C ends this)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class Server(ThreadingHTTPServer):
    """One thread for each request; a browser that waits for changes keeps nobody from closing it."""

    daemon_threads, block_on_close = True, False
    allow_reuse_address = os.name == "posix"  # else a port that was left a minute ago counts as taken
    follower: Follower

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error of ours."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def open_server(where: str | PathLike[str], port: int = PORT) -> Server:
    """A server that listens on the first free port from `port` on, and is yet to serve.

    Raises:
        UserError: there is no such folder, no free port, or one that this user may not open.
    """
    follower = Follower(Path(where))
    if not 0 <= port <= 65535:
        raise UserError(f"port = {port} must be between 0 and 65535")
    for attempt in range(port, min(port + TRIED, 65536)):
        try:
            server = Server((HOST, attempt), _Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise UserError(_refusal(attempt, error)) from error
        server.follower = follower
        return server
    raise UserError(f"no port from {port} to {port + TRIED - 1} is free: give another with --port")


def _refusal(port: int, error: OSError) -> str:
    """Why a port can not be had, though nobody has it."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} may not be opened by this user (those below 1024 are the system's): give one from 1024 on"
    return f"port {port} can not be opened ({error.strerror or error}): give another with --port"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """Answer `/`, `/data`, `/video` or `/events`; the path is compared, and is never a file's."""
        names, port = (HOST, "localhost"), self.server.server_port
        hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())  # browsers leave :80 out
        if self.headers.get("Host") not in hosts:  # a stranger's page whose name was made to mean this machine
            return self._answer(403, "text/plain", "this server answers to 127.0.0.1 alone")
        address = urlsplit(self.path)
        asked = parse_qs(address.query)
        chosen = asked.get("run", [])
        try:
            if address.path == "/":
                return self._answer(200, "text/html", html(self.server.follower.data(chosen)))
            if address.path == "/data":
                return self._answer(200, "application/json", as_json(self.server.follower.data(chosen)))
        except KeyError:
            return self._answer(404, "text/plain", "there is no such run")
        if address.path == "/video":
            return self._film(chosen, asked.get("name", []))
        if address.path == "/events":
            return self._events()
        return self._answer(404, "text/plain", "there is no such page")

    def _answer(self, code: int, kind: str, text: str) -> None:
        self._send(code, f"{kind}; charset=utf-8", text.encode("utf-8"))

    def _film(self, run: list[str], name: list[str]) -> None:
        """All of a film, or the part that is asked for (RFC 9110, 14), without which no browser goes back in it."""
        try:
            content = self.server.follower.film(run[0], name[0]).read_bytes()
        except (KeyError, IndexError, OSError):  # it was never named, or has just been deleted
            return self._answer(404, "text/plain", "there is no such film")
        part = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", self.headers.get("Range", ""))
        first, last = (int(part[1]), int(part[2] or len(content))) if part else (0, -1)
        if not first <= last or first >= len(content):
            return self._send(200, "video/mp4", content, {"Accept-Ranges": "bytes"})
        last = min(last, len(content) - 1)
        where = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return self._send(206, "video/mp4", content[first : last + 1], where)

    def _send(self, code: int, kind: str, content: bytes, more: Mapping[str, str] = MappingProxyType({})) -> None:
        self._head(code, kind)
        for name, value in {"Content-Length": str(len(content)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _head(self, code: int, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")

    def _events(self) -> None:
        """A line for each change, until the browser goes away (server-sent events)."""
        self._head(200, "text/event-stream; charset=utf-8")
        self.end_headers()
        known, spoken = self.server.follower.look(), time.monotonic()
        self._say(f"data: {known}")
        while True:
            time.sleep(LOOK)
            if (now := self.server.follower.look()) != known:
                known, spoken = now, time.monotonic()
                self._say(f"data: {known}")
            elif time.monotonic() - spoken > PING:
                spoken = time.monotonic()
                self._say(": still here")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal may be the run's."""
