"""A browser without a screen, spoken to over a pipe in its DevTools protocol: loads pages, notes what goes wrong."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import Any

_SECONDS = 60.0
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
_TROUBLE = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Browser:
    """One tab.

    Attributes:
        trouble: whatever the page wrote to the console, threw or was refused.
        requests: addresses that it asked for, but those of data inside it.
    """

    def __init__(self, program: Path, profile: Path) -> None:
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()

        def pipes() -> None:
            """Commands come in at 3, answers go out at 4."""
            for number, place in ((os.dup(theirs), 3), (os.dup(back), 4)):
                os.dup2(number, place)

        self._process = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        os.set_blocking(self._from, False)
        self._number, self._session, self._read = 0, "", b""
        self._events: deque[dict[str, Any]] = deque()
        self.trouble: list[str] = []
        self.requests: list[str] = []
        targets = self._call("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Be a screen of so many pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Load a page and wait until it is whole."""
        self._events.clear()
        self._call("Page.navigate", url=address)
        self._until("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def drag(self, *places: tuple[float, float]) -> None:
        """Press the mouse at the first place and let it go at the last."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 2), "mouseReleased"]
        for kind, (x, y) in zip(kinds, places, strict=True):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def shot(self) -> bytes:
        """The whole page as PNG."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def _call(self, method: str, **given: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return dict(found["result"])
            self._note(found)

    def _until(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._note(self._next())

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        method, given = event.get("method", ""), event.get("params", {})
        if method in _TROUBLE:
            self.trouble.append(json.dumps(given))
        if method == "Network.requestWillBeSent" and not given["request"]["url"].startswith("data:"):
            self.requests.append(given["request"]["url"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _SECONDS
        while b"\0" not in self._read:
            assert time.monotonic() < deadline, "the browser does not answer"
            assert self._process.poll() is None, "the browser has ended"
            try:
                self._read += os.read(self._from, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
        message, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(message))
