"""The page of a run that trains, live on this computer's own address."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from ..errors import UsageError
from ..runs import Row, Run
from ..solver import Solver
from .collect import Story, told
from .page import as_json, data, page

HOST = "127.0.0.1"
_PATIENCE = 3.0  # seconds that a page may take to fetch the end; it asks every second


class Watch:
    """What the page shows, taken by the thread that trains, and the server that hands it out from another.

    Attributes:
        address: of the page.
    """

    def __init__(self, run: Run, solver: Solver, port: int) -> None:
        self._run, self._solver = run, solver
        self._rows, self._ranges = run.rows(), run.ranges()
        self._floors = solver.problem.trivial_floor()
        self._shown: tuple[Story, bool, int] = (self._story(), True, 1)  # replaced as a whole: no lock is needed
        self._asked = 0.0  # when a page last asked for news
        self._told = threading.Event()  # a page has the end
        try:
            self._server = ThreadingHTTPServer((HOST, port), self._handler())
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"cannot listen at {HOST}, port {port} ({error}): choose another --port, or leave it out"
            ) from error
        self._server.daemon_threads = True
        self.address = f"http://{HOST}:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def show(self, row: Row) -> None:
        """A step was taken."""
        self._rows.append(row)
        if row.relative_l2 is not None:
            self._ranges[row.step] = self._solver.engine.ranges()
            self._show(live=True)

    def close(self) -> None:
        """Show the end, wait a moment for a page that listens to fetch it, and stop serving."""
        self._show(live=False)
        if time.monotonic() - self._asked < _PATIENCE:
            self._told.wait(_PATIENCE)
        self._server.shutdown()
        self._server.server_close()

    def _show(self, live: bool) -> None:
        self._shown = (self._story(), live, self._shown[2] + 1)

    def _story(self) -> Story:
        seconds = self._rows[-1].seconds if self._rows else 0.0
        return told(self._run, self._solver, self._floors, self._rows, self._ranges, seconds)

    def _page(self) -> bytes:
        story, live, version = self._shown
        return page([story], live, version).encode()

    def _news(self, since: int) -> bytes | None:
        """The data, if it is newer than version ``since``."""
        self._asked = time.monotonic()
        story, live, version = self._shown
        return as_json(data([story], live, version)).encode() if version > since else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        watch = self

        class Handler(BaseHTTPRequestHandler):
            """Answers for the page and its data."""

            def do_GET(self) -> None:
                asked = urlsplit(self.path)
                if asked.path == "/":
                    self._answer(watch._page(), "text/html; charset=utf-8")
                elif asked.path == "/data.json":
                    since = parse_qs(asked.query).get("since", ["0"])[0]
                    self._answer(watch._news(int(since) if since.isdecimal() else 0), "application/json")
                    if not watch._shown[1]:
                        watch._told.set()
                else:
                    self.send_error(404)

            def _answer(self, body: bytes | None, kind: str) -> None:
                self.send_response(204 if body is None else 200)
                if body is not None:
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                if body is not None:
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Says nothing: the terminal belongs to the training."""

        return Handler


@contextmanager
def watching(run: Run, solver: Solver, port: int) -> Iterator[Watch]:
    """Serve the page of a run, at a free port if it is 0, until the block ends.

    Raises:
        UsageError: something else listens there.
    """
    watch = Watch(run, solver, port)
    try:
        yield watch
    finally:
        watch.close()
