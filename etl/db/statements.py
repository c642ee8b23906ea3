"""Named SQL statements from the files in `sql/`.

In a file, each statement starts with a line `-- name: NAME`, followed by comments that describe it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def statements(subject: str) -> dict[str, str]:
    """Read `sql/<subject>.sql`.

    Args:
        subject: the file name without its extension.

    Returns:
        The statements by name.
    """
    text = files("etl.db").joinpath("sql", f"{subject}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
