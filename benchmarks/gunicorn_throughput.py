"""What Tracker costs a gunicorn that is busy: requests per second, latency and CPU, to bare.

    python benchmarks/gunicorn_throughput.py [--rounds 5] [--seconds 4] [--json runs.jsonl]

Two workers, sync and gthread, all on one processor; the load comes from another one: `wrk` where it
is installed, else threads of this script, which are slower (the output says which). 200 visitors
are named in X-Forwarded-For by a trusted proxy, as in production.

- `saturated`: the ingest threads share the server's processor, and there is nothing to spare.
- `ingest apart`: they have another one. On a machine with two, that is the load generator's; with
  more, ``--ingest-cpu`` gives them their own.

Bare, saturated and apart take turns, round by round, each in a fresh gunicorn. Every run checks
that the API's summary counts exactly what the application served.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common

PATIENCE_SECONDS = 60
CONNECTIONS = 8
VISITORS = 200
TOKEN = "of-the-benchmark"  # noqa: S105 - its server's alone
WORKERS = {"sync": ["--workers", "2"], "gthread": ["--workers", "2", "--threads", "4"]}
PLACEMENTS = ("bare", "saturated", "ingest apart")

WRK_SCRIPT = """
local prepared, number = {}, 0
init = function(args)
  for visitor = 0, %(visitors)d - 1 do
    wrk.headers["X-Forwarded-For"] = "203.0.113." .. (visitor + 1)
    wrk.headers["User-Agent"] = agents[visitor %% #agents + 1]
    wrk.headers["Referer"] = "https://www.google.com/"
    prepared[visitor] = wrk.format("GET", "/boxes/" .. (visitor %% %(paths)d) .. "?page=1")
  end
end
request = function()
  number = (number + 1) %% %(visitors)d
  return prepared[number]
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'LOAD {"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Server:
    """A gunicorn on a free port; use it in ``with``."""

    def __init__(self, folder: Path, workers: str, environ: dict[str, str]) -> None:
        self._folder = folder
        self._log = folder / "gunicorn.log"
        command = [sys.executable, "-m", "gunicorn", "served:application()", "-c", "python:served"]
        command += ["--bind", "127.0.0.1:0", "--worker-class", workers, *WORKERS[workers]]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=Path(__file__).parent,
                env={
                    **os.environ,
                    **environ,
                    "BENCH_FOLDER": str(folder),
                    "WSGI_TRACKER_TOKEN": TOKEN,
                },
                stderr=log,
            )

    def __enter__(self) -> Server:
        try:
            self.port = self._listening()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def _listening(self) -> int:
        for _ in _until(PATIENCE_SECONDS):
            log = self._log.read_text()
            match = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log)
            if match and log.count("Booting worker") == 2:
                return int(match[1])
            if self._process.poll() is not None:
                break
        raise RuntimeError(f"gunicorn did not start:\n{self._log.read_text()}")

    def __exit__(self, *problem: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def recorded(self) -> int:
        """Return the visits that the API counts, once they stay the same."""
        hits = -1
        for _ in _until(PATIENCE_SECONDS):
            # Requests whose client has gone may still be in the listener's queue.
            before, hits = hits, self._total_hits()
            if hits == before:
                return hits
        raise TimeoutError("visits are still coming")

    def _total_hits(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            connection.request("GET", "/api/tracking/summary", headers=headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(f"no summary: {response.status} {body!r}")
            if response.getheader("Wsgi-Tracker-Queued"):
                return -2  # not all of them yet
            return int(json.loads(body)["total_hits"])


def _until(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)


def load(port: int, seconds: float, script: Path) -> dict[str, Any]:
    """Send as many requests as the server takes."""
    wrk = shutil.which("wrk")
    return _wrk(wrk, port, seconds, script) if wrk else _threads(port, seconds)


def _wrk(wrk: str, port: int, seconds: float, script: Path) -> dict[str, Any]:
    agents = ", ".join(json.dumps(agent) for agent in common.AGENTS)
    numbers = {"visitors": VISITORS, "paths": common.PATHS}
    script.write_text(f"agents = {{{agents}}}\n" + WRK_SCRIPT % numbers)
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script)]
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=seconds + PATIENCE_SECONDS,
    ).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("LOAD "))
    sent: dict[str, Any] = json.loads(line.removeprefix("LOAD "))
    return sent


def _threads(port: int, seconds: float) -> dict[str, Any]:
    """Send requests from threads, each on a connection of its own."""
    times: list[float] = []
    errors: list[Exception] = []
    began = time.perf_counter()

    def send() -> None:
        number = 0
        while time.perf_counter() < began + seconds:
            number += 1
            started = time.perf_counter()
            try:
                _get(port, number % VISITORS)
            except OSError as error:
                errors.append(error)
            times.append((time.perf_counter() - started) * 1e6)

    threads = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    ordered = sorted(times)
    return {
        "requests": len(times),
        "seconds": took,
        "p50": ordered[len(times) // 2],
        "p99": ordered[len(times) * 99 // 100],
        "errors": len(errors),
    }


def _get(port: int, visitor: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    with contextlib.closing(connection):
        headers = {
            "X-Forwarded-For": f"203.0.113.{visitor + 1}",
            "User-Agent": common.AGENTS[visitor % len(common.AGENTS)],
            "Referer": "https://www.google.com/",
        }
        connection.request("GET", f"/boxes/{visitor % common.PATHS}?page=1", headers=headers)
        connection.getresponse().read()


def measure(workers: str, placement: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one gunicorn under load."""
    environ = {"BENCH_SERVER_CPU": str(options.server_cpu)}
    if placement != "bare":
        environ["BENCH_TRACKED"] = "yes"
    if placement == "ingest apart":
        environ["BENCH_INGEST_CPU"] = str(options.ingest_cpu)
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-", dir=options.folder) as name:
        folder = Path(name)
        calibration = [_calibrate(options)]
        with Server(folder, workers, environ) as server:
            load(server.port, 1, folder / "load.lua")
            sent = load(server.port, options.seconds, folder / "load.lua")
            recorded = server.recorded() if placement != "bare" else None
        calibration.append(_calibrate(options))
        counts = [json.loads(file.read_text()) for file in folder.glob("worker-*.json")]
    served = sum(each["served"] for each in counts)
    return {
        "workers": workers,
        "placement": placement,
        "requests_per_second": sent["requests"] / sent["seconds"],
        "cpu_us": sum(each["cpu_seconds"] for each in counts) / served * 1e6,
        "p50_us": sent["p50"],
        "p99_us": sent["p99"],
        "errors": sent["errors"],
        "served": served,
        "recorded": recorded,
        "calibration": calibration,
    }


def _calibrate(options: argparse.Namespace) -> float:
    """Look how fast the server's processor is."""
    common.pin({options.server_cpu})
    try:
        return common.calibrate()
    finally:
        common.pin({options.load_cpu})


def report(runs: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    rows = []
    for workers in dict.fromkeys(run["workers"] for run in runs):
        bare = _of(runs, workers, "bare")
        for placement in PLACEMENTS:
            ours = _of(runs, workers, placement)
            calibration = statistics.median(each for run in ours for each in run["calibration"])
            counts = [_recorded(ours), f"{calibration:.2f}"]
            rows.append([f"{workers}, {placement}", *_figures(ours, bare), *counts])
    heads = ["gunicorn", "requests/s", "ratio of medians", "p50 ms", "p99 ms", "CPU µs/request"]
    return common.table(
        [*heads, "CPU added", "errors", "recorded = served", "calibration µs"], rows
    )


def _of(runs: Sequence[dict[str, Any]], workers: str, placement: str) -> list[dict[str, Any]]:
    return [run for run in runs if (run["workers"], run["placement"]) == (workers, placement)]


def _figures(runs: Sequence[dict[str, Any]], bare: Sequence[dict[str, Any]]) -> list[str]:
    def median(runs: Sequence[dict[str, Any]], figure: str) -> float:
        return statistics.median(float(run[figure]) for run in runs)

    ratio = median(runs, "requests_per_second") / median(bare, "requests_per_second")
    return [
        common.spread([run["requests_per_second"] for run in runs], 0),
        f"{ratio:.3f}",
        f"{median(runs, 'p50_us') / 1000:.2f}",
        f"{median(runs, 'p99_us') / 1000:.2f}",
        common.spread([run["cpu_us"] for run in runs], 0),
        f"{median(runs, 'cpu_us') - median(bare, 'cpu_us'):.1f}",
        str(sum(run["errors"] for run in runs)),
    ]


def _recorded(runs: Sequence[dict[str, Any]]) -> str:
    if runs[0]["recorded"] is None:
        return "-"
    served, recorded = (sum(run[name] for run in runs) for name in ("served", "recorded"))
    return f"all {served}" if complete(runs) else f"**{recorded} of {served}**"


def complete(runs: Sequence[dict[str, Any]]) -> bool:
    """Return whether every run recorded what it served."""
    return all(run["recorded"] in (None, run["served"]) for run in runs)


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--workers", nargs="*", choices=WORKERS, default=list(WORKERS))
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--load-cpu", type=int, default=1)
    parser.add_argument("--ingest-cpu", type=int, default=1, help="where it is apart")
    parser.add_argument("--folder", type=Path, help="where databases are made, on a local disk")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    options = parser.parse_args()

    generator = "wrk" if shutil.which("wrk") else "threads of Python, as wrk is not installed"
    shared = options.ingest_cpu == options.load_cpu
    print(f"{common.conditions()}; {options.rounds} rounds of {options.seconds:g} s")
    print(f"server on processor {options.server_cpu}, load ({generator}) on {options.load_cpu}")
    with_load = ", which it shares with the load" if shared else ""
    print(f"ingest apart on {options.ingest_cpu}{with_load}, else with the server", flush=True)
    common.pin({options.load_cpu})
    runs = []
    for number in range(options.rounds):
        for workers in options.workers:
            for placement in PLACEMENTS:
                runs.append({**measure(workers, placement, options), "round": number})
                common.write_json_lines(options.json, runs)
    print("\n" + report(runs))
    return 0 if complete(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
