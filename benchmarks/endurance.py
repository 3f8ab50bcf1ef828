"""The long form of the fault tests: a hundred kills of each server, and a soak; in one command.

    python benchmarks/endurance.py [all] [--kills 100] [--requests 3000000] [--json runs.jsonl]
    python benchmarks/endurance.py kills [--kills 100] [--only mod_wsgi]
    python benchmarks/endurance.py soak [--requests 3000000]

It exits with 1 if a visit was lost or counted twice, a report held less than was answered before it
was asked for, or memory, descriptors, threads, spool or log grew and grew. `kills.py` and `soak.py` say what they do, and what their columns mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / "faults"), str(TESTS)]

import kills  # noqa: E402
import soak  # noqa: E402


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield every figure as soon as there is one, and print tables of them."""
    killed, samples = [], []
    if options.command != "soak":
        for row in kills.run(options.kills, options.only):
            killed.append(row)
            yield row
        print("\n" + kills.table(killed), flush=True)
    if options.command != "kills":
        for row in soak.run(options.requests):
            samples.append(row)
            yield row
        print("\n" + soak.table(samples), flush=True)


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", nargs="?", choices=["all", "kills", "soak"], default="all")
    parser.add_argument("--kills", type=int, default=100, help="of each server")
    parser.add_argument("--only", default="", help="kill the servers with this in their names")
    parser.add_argument("--requests", type=int, default=3_000_000, help="of the soak")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    if options.command != "kills":
        soak.require_wrk()  # now, and not after all the kills
    print(common.conditions(), flush=True)
    rows = []
    try:
        for row in run(options):
            rows.append(row)
    finally:
        common.write_json_lines(options.json, rows)
    return int(any(row.get(fault) for row in rows for fault in (*kills.FAULTS, "grown")))


if __name__ == "__main__":
    sys.exit(main())
