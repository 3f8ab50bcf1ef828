"""How long the dashboard takes to show itself, in Chromium, over a database of any size.

    python benchmarks/dashboard.py [--rows 1000000] [--kind site] [--folder FOLDER] [--rounds 5]

A database (see bulk.py, which needs numpy) is copied and served by gunicorn, two gthread workers;
browser and server share the processors. Playwright is needed, and a Chromium that is installed as
``chromium`` or named by ``--browser``. Each round opens every period once, each in a browser context
of its own, so that nothing is in a cache; one more round comes first, and is not counted.

- `first paint`: the browser's first contentful paint.
- `counters`: all that counters answer is shown: totals, trend, endpoints, error rates, latencies.
- `everything`: no panel is at work, comparisons, breakdowns and sessions included.

All in milliseconds since the page was asked for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import bulk
import common
import gunicorn_throughput as gunicorn
from playwright.sync_api import Browser, sync_playwright

PERIODS = ("day", "week", "month", "year")
GOALS_MS = {"first paint": 300, "counters": 1000, "everything": None}
PATIENCE_MS = 120_000
FLAGS = """--no-sandbox --disable-quic --disable-background-networking --disable-component-update
    --disable-sync""".split()
WATCH = """
new MutationObserver(() => {
  const now = performance.now();
  if (!window.counted && document.getElementById("updated")?.textContent) window.counted = now;
  if (window.counted && !document.querySelector('[aria-busy="true"]')) window.calm ??= now;
  else window.calm = undefined;
}).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
"""
READ = """() => ({
  "first paint": performance.getEntriesByName("first-contentful-paint")[0].startTime,
  "counters": window.counted,
  "everything": window.calm,
})"""


def load(browser: Browser, port: int, period: str) -> dict[str, float]:
    """Open a view; return what it took, in ms."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 1000},
        locale="en-GB",
        bypass_csp=True,  # to wait, Playwright evaluates text
    )
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(
        f"http://127.0.0.1:{port}/api/tracking/dashboard?period={period}#token={gunicorn.TOKEN}"
    )
    page.wait_for_function(
        "window.calm && performance.now() - window.calm > 500", timeout=PATIENCE_MS
    )
    if problems := page.locator(".problem").all_inner_texts():
        raise RuntimeError(f"{period}: {problems}")
    took: dict[str, float] = page.evaluate(READ)
    context.close()
    return took


def measure(database: Path, scratch: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Open every period in turn, round by round."""
    shutil.copy(database, scratch / "visits.db")
    os.sync()  # else the disk is busy with the copy for a minute
    environ = {"BENCH_TRACKED": "yes", "BENCH_SERVER_CPU": options.server_cpus}
    runs = []
    with gunicorn.Server(scratch, "gthread", environ) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=FLAGS)
        for number in range(-1, options.rounds):
            for period in PERIODS:
                took = load(browser, server.port, period)
                if number >= 0:
                    runs.append({"period": period, "round": number, **took})
        browser.close()
    return runs


def report(runs: list[dict[str, Any]]) -> str:
    """Return the table of medians and ranges; a median that misses its goal is bold."""
    lines = []
    for period in PERIODS:
        line = [period]
        for name, goal in GOALS_MS.items():
            values = [run[name] for run in runs if run["period"] == period]
            shown = common.spread(values, 0)
            missed = goal is not None and statistics.median(values) > goal
            line.append(f"**{shown}**" if missed else shown)
        lines.append(line)
    goals = [name if goal is None else f"{name}, goal {goal}" for name, goal in GOALS_MS.items()]
    return common.table(["period", *goals], lines)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many visits there are")
    parser.add_argument("--kind", choices=bulk.KINDS, default="site")
    parser.add_argument("--folder", type=Path, help="where databases are kept, on a local disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server-cpus", default="0,1", help="the server's processors")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="Chromium's path")
    parser.add_argument("--json", type=Path, help="write the runs to this file")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{common.conditions()}; {options.rows} visits of the kind {options.kind}", flush=True)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-", dir=options.folder) as name:
        scratch = Path(name)
        database = bulk.kept(options.folder or scratch, options.kind, options.rows)
        runs = measure(database, scratch, options)
    common.write_json_lines(options.json, runs)
    print(f"load average {before:.2f} before, calibration {common.calibrate():.2f} us")
    print(report(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
