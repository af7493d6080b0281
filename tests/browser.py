"""A real browser for tests: Debian's chromium, driven over a pipe by the DevTools protocol, with no further package."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)
READ, WRITE = 3, 4
"""File descriptors that chromium reads commands from and writes answers to."""


SMALLEST_PX = 11

ALL_LOADED = "[...document.images].every((i) => i.complete && i.naturalWidth > 0)"
EXCESS = "document.documentElement.scrollWidth - innerWidth"
SMALLEST = """Math.min(...[...document.querySelectorAll("body *")]
  .filter((e) => !e.closest("svg, script, style") && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => parseFloat(getComputedStyle(e).fontSize)))"""


class Browser:
    """A headless chromium. Commands are JSON, each ended by a zero byte."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_browser, self._commands = (_high(fd) for fd in os.pipe())
        self._answers, from_browser = (_high(fd) for fd in os.pipe())

        def connect() -> None:
            os.dup2(to_browser, READ)
            os.dup2(from_browser, WRITE)

        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=connect,
            pass_fds=(READ, WRITE),
        )
        os.close(to_browser)
        os.close(from_browser)
        os.set_blocking(self._answers, False)
        self._rest = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        os.close(self._commands)
        os.close(self._answers)

    def send(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Result of a command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._until(lambda m: m.get("id") == self._number, 60.0)["result"]

    def wait_for(self, method: str, session: str, seconds: float = 60.0) -> dict[str, Any]:
        """The next event of that name (or one that came already)."""

        def wanted(m: dict[str, Any]) -> bool:
            return m.get("method") == method and m.get("sessionId") == session

        for event in self._events:
            if wanted(event):
                return event
        return self._until(wanted, seconds)

    def events(self) -> list[dict[str, Any]]:
        """Everything that the browser told so far."""
        self._read()
        return self._events

    def _until(self, wanted: Any, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in self._read():
                if "error" in message and wanted(message):
                    raise RuntimeError(f"chromium: {message['error']}")
                if wanted(message):
                    return message
            time.sleep(0.01)
        raise TimeoutError("chromium did not answer")

    def _read(self) -> list[dict[str, Any]]:
        try:
            while block := os.read(self._answers, 1 << 20):
                self._rest += block
        except BlockingIOError:
            pass
        *whole, self._rest = self._rest.split(b"\0")
        messages = [json.loads(part) for part in whole if part]
        self._events += [m for m in messages if "method" in m]
        return messages

    @contextmanager
    def page(self, path: Path, width: int, height: int = 900) -> "Iterator[Page]":
        """A file opened in a tab of its own at a width in CSS pixels."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable", session)
        self.send(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        start = time.monotonic()
        self.send("Page.navigate", session, url=path.as_uri())
        self.wait_for("Page.loadEventFired", session)
        page = Page(self, session)
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        page.seconds = time.monotonic() - start
        try:
            yield page
        finally:
            self.send("Target.closeTarget", targetId=target)


class Page:
    """An open page: what it asked for, what went wrong, and what scripts find in it."""

    seconds: float
    """From the start to the second frame after the page had loaded."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self._browser.send(
            "Runtime.evaluate", self._session, expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """Press and release the mouse at a point of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "buttons": 1, "clickCount": 1}
            self._browser.send("Input.dispatchMouseEvent", self._session, type=kind, x=x, y=y, **button)

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for, the page itself first."""
        events = self._own("Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in events]

    @property
    def errors(self) -> list[str]:
        """Exceptions, console errors and failed loads."""
        found = [str(e["params"]["exceptionDetails"]) for e in self._own("Runtime.exceptionThrown")]
        found += [str(e["params"]) for e in self._own("Runtime.consoleAPICalled") if e["params"]["type"] == "error"]
        found += [str(e["params"]) for e in self._own("Log.entryAdded") if e["params"]["entry"]["level"] == "error"]
        found += [str(e["params"]) for e in self._own("Network.loadingFailed") if not e["params"].get("canceled")]
        return found

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        """A picture of the page."""
        answer = self._browser.send("Page.captureScreenshot", self._session, captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def print_style(self, on: bool = True) -> None:
        """Lay the page out as for paper, or as for the screen again."""
        self._browser.send("Emulation.setEmulatedMedia", self._session, media="print" if on else "")

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._browser.send("Page.printToPDF", self._session)["data"])

    def _own(self, method: str) -> list[dict[str, Any]]:
        events = self._browser.events()
        return [e for e in events if e.get("method") == method and e.get("sessionId") == self._session]


def _high(fd: int) -> int:
    """The same file under a number above those that chromium uses."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved


def assert_whole(page: Page) -> None:
    """Nothing failed, nothing came from elsewhere, everything can be read."""
    assert page.errors == []
    assert [u for u in page.requests if not u.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate(ALL_LOADED)
    assert page.evaluate(EXCESS) <= 0, "the page itself never scrolls sideways"
    assert page.evaluate(SMALLEST) >= SMALLEST_PX
