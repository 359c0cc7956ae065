"""A real headless Chromium, spoken to over its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.request import Request, urlopen

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """One tab: what it says in its console, and what it asks of the network, is kept."""

    def __init__(self, socket):
        self._socket, self._numbers = socket, count(1)
        self.errors, self.requests = [], []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as if the window were in front

    def call(self, method, **parameters):
        """A command's answer; events that come before it are noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=600))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, method, event):
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(x.get("value", x.get("description"))) for x in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not event["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(event["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {event['message']}")

    def open(self, address):
        """Go there; what was noted of another page is forgotten."""
        self.errors.clear()
        self.requests.clear()
        self.call("Page.navigate", url=str(address))
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script, seconds=60):
        """Until an expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never came true: {script}; {self.errors}"
            time.sleep(0.05)
        return value

    def press(self, key, text=""):
        """A key, down and up."""
        codes = {"Tab": 9, " ": 32, "Enter": 13}
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def size(self, width, height):
        """Of the window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, on):
        """What the reader's system prefers."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if on else "light"}],
        )

    def picture(self, file, whole=False):
        """A screenshot as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        Path(file).write_bytes(base64.b64decode(data))


@contextmanager
def chromium(folder):
    """A page of a fresh browser, see `browser`."""
    with browser(folder) as port, tab(port) as page:
        yield page


@contextmanager
def browser(folder):
    """A fresh browser, by the port that it listens at.

    Args:
        folder: for its profile.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, f"these tests need a browser: install one of {', '.join(NAMES)} (Debian: apt-get install chromium)"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    process = subprocess.Popen(
        [program, *options, *quiet, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield _port(Path(folder) / "DevToolsActivePort", process)
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def tab(port):
    """A new page of a browser, closed at the end."""
    with urlopen(Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")) as answer:
        made = json.load(answer)
    with connect(made["webSocketDebuggerUrl"], max_size=None) as socket:
        yield Page(socket)
        socket.send(json.dumps({"id": 0, "method": "Page.close"}))


def _port(file, process):
    for _ in range(600):
        assert process.poll() is None, f"the browser ended with {process.returncode}"
        lines = file.read_text().split() if file.exists() else []
        if len(lines) == 2:
            return lines[0]
        time.sleep(0.05)
    raise AssertionError("the browser has opened no port for 30 s")
