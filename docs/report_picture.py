"""Write docs/report.png and docs/report-dark.png: the top of the report on the demo's data. `make picture` runs it."""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests" / "support"))

from browser import chromium, find_chromium  # noqa: E402

WIDTH = 1000
END = "document.querySelector('#runs').getBoundingClientRect().bottom"


async def main(report: Path) -> None:
    """Take a picture of a report in light and in dark colours."""
    program = find_chromium()
    if program is None:
        sys.exit("no chromium on this machine: apt-get install chromium fonts-noto-color-emoji")
    with tempfile.TemporaryDirectory() as profile:
        async with chromium(program, Path(profile)) as page:
            for scheme, name in (("light", "report.png"), ("dark", "report-dark.png")):
                await page.open(report, width=WIDTH, scheme=scheme)
                clip = {"x": 0, "y": 0, "width": WIDTH, "height": await page.run(END) + 18, "scale": 1}
                found = await page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
                (DOCS / name).write_bytes(base64.b64decode(found["data"]))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
