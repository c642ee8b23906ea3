"""Write the data dictionary of a freshly migrated schema to stdout."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from etl.db import embedded
from etl.db.connect import connect
from etl.db.migrate import migrate
from etl.dictionary import Relation, read_relations, render

_SCHEMA = "cortex"


async def _read_fresh_schema(url: str) -> list[Relation]:
    connection = await connect(url, _SCHEMA)
    await migrate(connection, _SCHEMA)
    relations = await read_relations(connection, _SCHEMA)
    await connection.close()
    return relations


def main() -> None:
    """Start a temporary server, migrate it and print the dictionary."""
    with tempfile.TemporaryDirectory(prefix="ce-") as directory:
        try:
            print(render(asyncio.run(_read_fresh_schema(embedded.start(Path(directory))))), end="")  # noqa: T201 -- our own text
        finally:
            embedded.stop(Path(directory))


if __name__ == "__main__":
    main()
