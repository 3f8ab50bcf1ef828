"""What Tracker adds to one request, in process: time over the bare application, and CPU.

    python benchmarks/request_path.py [--rounds 7] [--calls 20000] [--cpu 0] [--json runs.jsonl]

Every target runs once a round in a process of its own, in turn, so that a change of the machine
meets all of them. Timed is the call, the body and close(); copying the prebuilt environ and setting
the client is not. "Added" is target minus bare of the same round; the table shows medians over
rounds, and the range. On one processor the ingest thread takes its time from the requests; it is
in the mean, the p99 and the CPU.

Virtual machines fall to half speed and back within a second. So the plain application is timed
before and after every 500 calls, and calls that met a slow machine there are left out; the
calibration alone decides. A run that was slow for most of its time is left out whole.

Clients: `200` and `32768` (address, agent) pairs were all seen once before timing begins; of
`32768 new` none was. ``prometheus`` (prometheus_client) and ``opentelemetry`` (the WSGI
instrumentation, spans kept in memory) take part where they are installed.
"""

from __future__ import annotations

import argparse
import array
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

from wsgi_tracker import Tracker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATIENCE_SECONDS = 120
WARM_CALLS = 500
CHUNK = 500
SLOW = 1.25
FEWEST_AT_FULL_SPEED = 0.25
CLIENTS = {"200": (200, True), "32768": (32768, True), "32768 new": (32768, False)}
NEEDS = {"prometheus": "prometheus_client", "opentelemetry": "opentelemetry.instrumentation.wsgi"}


@dataclass(frozen=True, slots=True)
class Target:
    """An application, and how many requests it recorded, once everything is stored."""

    app: WSGIApplication
    recorded: Callable[[], int | None]


def bare(folder: Path) -> Target:
    return Target(common.plain_app, lambda: None)


def tracker(folder: Path, *, ingest: bool = True) -> Target:
    app = Tracker(common.plain_app, folder / "visits.db", require_token=False, ingest=ingest)
    return Target(app, lambda: recorded_by(app))


def tracker_without_ingest(folder: Path) -> Target:
    return tracker(folder, ingest=False)


def tracker_with_all(folder: Path) -> Target:
    """Turn on every option that costs a request anything."""
    app = Tracker(
        common.plain_app,
        folder / "visits.db",
        require_token=False,
        user="REMOTE_USER",
        exclude=("/static/*", "OPTIONS", "192.0.2.0/24", lambda environ: False),
        trusted_proxies=("127.0.0.1", "10.0.0.0/8"),
        collapse_ids=True,
        ip_addresses="truncated",
        identity="daily",
        honor_privacy_signals=True,
    )
    return Target(app, lambda: recorded_by(app))


def recorded_by(app: Tracker) -> int:
    """Ask the API until nothing is queued."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer: dict[str, Any] = {}

        def start_response(
            status: str, headers: Any, exc_info: Any = None, answer: dict[str, Any] = answer
        ) -> Any:
            answer.update(headers, status=status)

        environ: WSGIEnvironment = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/api/tracking/summary",
            "wsgi.url_scheme": "http",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
        }
        body = b"".join(app(environ, start_response))
        if answer["status"] == "200 OK" and "Wsgi-Tracker-Queued" not in answer:
            return int(json.loads(body)["total_hits"])
    raise TimeoutError("visits are still queued")


def prometheus(folder: Path) -> Target:
    from prometheus_client import Counter, Histogram

    requests = Counter("requests", "Requests", ("method", "path", "status"))
    seconds = Histogram("request_seconds", "Duration", ("method", "path"))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started, code = time.perf_counter(), "500"

        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal code
            code = status[:3]
            return start_response(status, headers, exc_info)

        body = common.plain_app(environ, start)
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        requests.labels(method, path, code).inc()
        seconds.labels(method, path).observe(time.perf_counter() - started)
        return body

    def recorded() -> int:
        samples = [sample for metric in requests.collect() for sample in metric.samples]
        return int(sum(sample.value for sample in samples if sample.name == "requests_total"))

    return Target(app, recorded)


def opentelemetry(folder: Path) -> Target:
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(spans))

    def recorded() -> int:
        provider.force_flush(PATIENCE_SECONDS * 1000)
        return len(spans.get_finished_spans())

    return Target(OpenTelemetryMiddleware(common.plain_app, tracer_provider=provider), recorded)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "bare": bare,
    "tracker": tracker,
    "tracker, ingest=False": tracker_without_ingest,
    "tracker, all options": tracker_with_all,
    "prometheus": prometheus,
    "opentelemetry": opentelemetry,
}


def ignore(status: str, headers: Any, exc_info: Any = None) -> Any:
    """Stand in for the server's ``start_response``."""


def call(app: WSGIApplication, environ: WSGIEnvironment) -> None:
    """Do what a server does with an application."""
    body = app(environ, ignore)
    for _ in body:
        pass
    close = getattr(body, "close", None)
    if close is not None:
        close()


class Requests:
    """The requests of one run, one after another; making one is not part of any timing."""

    def __init__(self, clients: Sequence[tuple[str, str]]) -> None:
        self._clients = clients
        self._environs = common.environs()

    def __getitem__(self, number: int) -> WSGIEnvironment:
        environ = self._environs[number % len(self._environs)].copy()
        address, agent = self._clients[number % len(self._clients)]
        environ["REMOTE_ADDR"] = address
        environ["HTTP_USER_AGENT"] = agent
        return environ


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some calls: the nanoseconds of each, CPU of this thread, and how fast the machine was."""

    times: array.array[int]
    cpu_ns: int
    calibration: float


def timed(app: WSGIApplication, requests: Requests, calls: int) -> list[Chunk]:
    """Time the calls, looking at the machine's speed again and again."""
    chunks = []
    before = common.calibrate(300)
    for first in range(0, calls, CHUNK):
        numbers = range(first, min(first + CHUNK, calls))
        cpu_began = time.thread_time_ns()
        times = timed_calls(app, requests, numbers)
        cpu_ended = time.thread_time_ns()
        after = common.calibrate(300)
        chunks.append(Chunk(times, cpu_ended - cpu_began, max(before, after)))
        before = after
    return chunks


def timed_calls(app: WSGIApplication, requests: Requests, numbers: range) -> array.array[int]:
    """Return the nanoseconds of each call."""
    times = array.array("Q")
    clock = time.perf_counter_ns
    for number in numbers:
        environ = requests[number]
        started = clock()
        # As call(), without the cost of calling it.
        body = app(environ, ignore)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()
        times.append(clock() - started)
    return times


def measure(name: str, mode: str, calls: int, full_speed: float) -> dict[str, Any]:
    """Run one target in this process."""
    count, seen_before = CLIENTS[mode]
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-") as folder:
        target = TARGETS[name](Path(folder))
        # Never the clients that are timed, where those are to be new.
        warm = Requests(common.clients(count) if seen_before else common.clients(1))
        warm_calls = max(WARM_CALLS, count) if seen_before else WARM_CALLS
        for number in range(warm_calls):
            call(target.app, warm[number])
        target.recorded()
        requests = Requests(common.clients(count))
        thread_began, began = time.thread_time_ns(), time.process_time_ns()
        chunks = timed(target.app, requests, calls)
        thread_ended = time.thread_time_ns()
        recorded = target.recorded()
        background = time.process_time_ns() - began - (thread_ended - thread_began)
        if isinstance(target.app, Tracker):
            target.app.close()
    return {
        "target": name,
        "clients": mode,
        **figures(chunks, full_speed, background / calls / 1000),
        "sent": warm_calls + calls,
        "recorded": recorded,
    }


def figures(chunks: Sequence[Chunk], full_speed: float, background: float) -> dict[str, Any]:
    """Return what the calls at full speed took, in µs; no times where they were too few."""
    kept = [chunk for chunk in chunks if chunk.calibration <= full_speed * SLOW]
    share = len(kept) / len(chunks)
    if share < FEWEST_AT_FULL_SPEED:
        return {"at_full_speed": share}
    times = sorted(itertools.chain.from_iterable(chunk.times for chunk in kept))
    cpu = sum(chunk.cpu_ns for chunk in kept) / len(times) / 1000
    return {
        "at_full_speed": share,
        "mean": statistics.fmean(times) / 1000,
        "p50": times[len(times) // 2] / 1000,
        "p99": times[len(times) * 99 // 100] / 1000,
        "thread_cpu": cpu,
        "total_cpu": cpu + background,
    }


def run_apart(name: str, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one target in a fresh process on one processor; negative: on any."""
    command = [sys.executable, __file__, "--child", name, mode, "--calls", str(options.calls)]
    command += ["--cpu", str(options.cpu), "--full-speed", str(options.full_speed)]
    child = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS * 2,
        env={**os.environ, "PYTHONHASHSEED": "random"},
    )
    run: dict[str, Any] = json.loads(child.stdout)
    return run


def available(names: Sequence[str]) -> list[str]:
    """Return the targets whose packages are installed; say which are not."""
    found = []
    for name in names:
        try:
            missing = name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None
        except ModuleNotFoundError:  # of the parent package
            missing = True
        if missing:
            print(f"skipped: {name}, as {NEEDS[name]} is not installed", flush=True)
        else:
            found.append(name)
    return found


def report(runs: Sequence[dict[str, Any]], mode: str, names: Sequence[str]) -> str:
    """Return the table of one kind of clients."""
    runs = [run for run in runs if run["clients"] == mode]
    timed = [run for run in runs if "p50" in run]
    bare_of = {run["round"]: run for run in timed if run["target"] == "bare"}
    rows = []
    for name in names:
        ours = [run for run in runs if run["target"] == name]
        kept = [run for run in timed if run["target"] == name and run["round"] in bare_of]
        figures = _figures(kept, bare_of, name) if kept else ["machine too busy", *[""] * 5]
        rows.append([name, *figures, _recorded(ours), f"{len(kept)}/{len(ours)}"])
    heads = ["target", "p50", "p99", "mean", "ratio of means", "request thread's CPU", "all CPU"]
    return common.table([*heads, "recorded", "rounds"], rows)


def _figures(
    runs: Sequence[dict[str, Any]], bare_of: dict[int, dict[str, Any]], name: str
) -> list[str]:
    def added(figure: str) -> str:
        if name == "bare":
            return "= " + common.spread([run[figure] for run in runs])
        return common.spread([run[figure] - bare_of[run["round"]][figure] for run in runs])

    ratios = [run["mean"] / bare_of[run["round"]]["mean"] for run in runs]
    ratio = "1" if name == "bare" else common.spread(ratios, 1)
    times = [added("p50"), added("p99"), added("mean")]
    return [*times, ratio, added("thread_cpu"), added("total_cpu")]


def _recorded(runs: Sequence[dict[str, Any]]) -> str:
    if runs[0]["recorded"] is None:
        return "-"
    sent = sum(run["sent"] for run in runs)
    recorded = sum(run["recorded"] for run in runs)
    return f"all {sent}" if recorded == sent else f"**{recorded} of {sent}**"


def main() -> int:
    """Run the benchmark, or one target of it; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20_000, help="timed calls of each run")
    parser.add_argument("--cpu", type=int, default=0, help="the processor to use; -1: any")
    parser.add_argument("--clients", nargs="*", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--full-speed", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cpu >= 0:
        common.pin({options.cpu})
    if options.child:
        name, mode = options.child
        print(json.dumps(measure(name, mode, options.calls, options.full_speed)))
        return 0

    where = f"on processor {options.cpu}" if options.cpu >= 0 else "on any processor"
    print(f"{common.conditions()}; {options.rounds} rounds of {options.calls} calls, {where}")
    options.full_speed = min(common.calibrate(300) for _ in range(2000))
    print(f"the plain application at full speed: {options.full_speed:.2f} µs", flush=True)
    names = available(["bare", *(name for name in options.targets if name != "bare")])
    runs = []
    for number in range(options.rounds):
        for mode in options.clients:
            for name in names:
                run = run_apart(name, mode, options)
                runs.append({**run, "round": number})
        common.write_json_lines(options.json, runs)
    for mode in options.clients:
        print(f"\nMicroseconds added to a request, {mode} clients (bare: absolute)\n")
        print(report(runs, mode, names))
    complete = [run["recorded"] in (None, run["sent"]) for run in runs]
    return 0 if all(complete) else 1


if __name__ == "__main__":
    sys.exit(main())
