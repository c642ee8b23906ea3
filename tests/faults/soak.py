"""`make soak`: many random histories with kills, each compared with the API. See `etl.app.selftest`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from etl.app.selftest import run_selftest
from etl.config import Settings
from etl.db import embedded


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slices", type=float, default=0.3, help="share of histories that reconcile in slices")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cortex-soak-") as directory:
        Path(directory).chmod(0o755)
        settings = Settings(data_dir=Path(directory))
        try:
            work = run_selftest(settings, rounds=wanted.rounds, seed=wanted.seed, slices=wanted.slices, report=print)
            found = asyncio.run(work)
        finally:
            embedded.stop(settings.data_dir)
    for failure in found.failures:
        print(failure)
    print(f"{found.histories} histories, {found.syncs} syncs, {found.kills} killed, {found.seconds} s")
    print(f"missing {found.missing}, stale {found.stale}, duplicated {found.duplicated}, unfinished {found.unfinished}")
    return 0 if found.clean else 1


if __name__ == "__main__":
    sys.exit(main())
