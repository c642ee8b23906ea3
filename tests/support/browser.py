"""A headless Chromium, controlled over the DevTools protocol."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening")


def find_chromium() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Page:
    """A tab. `complaints` are console messages, exceptions and dialogs; `requests` are the requested URLs."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _calls: int = 0
    _loads: int = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        await self.socket.send_json({"id": self._calls, "method": method, "params": params})
        while (message := await self._receive()).get("id") != self._calls:
            pass
        assert "error" not in message, message
        return message["result"]

    async def _receive(self) -> dict[str, Any]:
        message = await self.socket.receive_json(timeout=30)
        match message.get("method"):
            case "Page.loadEventFired":
                self._loads += 1
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            case method if method in COMPLAINTS:
                self.complaints.append(message)
        return message

    async def open(self, path: Path, *, width: int, scheme: str = "light") -> None:
        """Load a file in a window of this width; narrow windows emulate a phone."""
        for domain in ("Page", "Log", "Runtime", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        loads = self._loads
        await self.call("Page.navigate", url=path.as_uri())
        while self._loads == loads:
            await self._receive()

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def hover(self, x: float, y: float) -> None:
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


@asynccontextmanager
async def chromium(program: str, profile: Path) -> AsyncIterator[Page]:
    """Run a browser with a new profile."""
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port(process, profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                tabs = await response.json()
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def _port(process: subprocess.Popen[bytes], file: Path) -> int:
    async with asyncio.timeout(60):
        while not (file.exists() and len(file.read_text().split()) == 2):
            assert process.poll() is None, "the browser has exited"
            await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])
