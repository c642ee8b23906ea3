"""Whether to use colors in terminal output. `etl.visible` escapes text from other sources."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


def colored(stream: TextIO) -> bool:
    """Return whether to use colors on a stream; see https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
