"""The real command, run in a separate process with a settings file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.processes import Usage, measure

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-bench"
_SETTINGS = """\
api:
  base_url: {base_url}
  key: {key}
  requests_per_minute: {requests_per_minute}
  page_size: {page_size}
database:
  url: {url}
apps: [{apps}]
sync:
  reconcile_every: {reconcile_every}
"""


@dataclass(frozen=True, slots=True)
class Command:
    """The command for one warehouse and one app; its settings file is written to `directory`.

    `others` are apps that are in the settings too, so that their streams are not retired, but are not read.
    """

    directory: Path
    port: int
    url: str
    app: str
    requests_per_minute: int = 100_000
    page_size: int | str = "auto"
    others: tuple[str, ...] = ()

    def run(self, mode: str) -> Done:
        """Run `backfill`, `reconcile` or `sync`."""
        file = self.directory / f"{self.app}.yaml"
        file.write_text(
            _SETTINGS.format(
                key=KEY,
                base_url=f"http://127.0.0.1:{self.port}",
                requests_per_minute=self.requests_per_minute,
                page_size=self.page_size,
                url=self.url,
                apps=", ".join(f"{{id: {each}}}" for each in (self.app, *self.others)),
                reconcile_every="0",
            )
        )
        usage = measure(["-m", "etl", mode, "--app", self.app, "--config", str(file), "--json", "--quiet"])
        return Done(usage, json.loads(usage.output))


@dataclass(frozen=True, slots=True)
class Done:
    """The resource usage of a command, and the summary that it printed."""

    usage: Usage
    summary: dict[str, Any]
