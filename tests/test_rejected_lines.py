"""What is no visit is kept aside, and counted; it costs no other line and stops nothing."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from counting import look
from hosts import GOOD, OTHER, BeforeIngest, Host, many

from wsgi_tracker import Visit
from wsgi_tracker.errors import StorageError
from wsgi_tracker.ingest import BATCH_BYTES, Ingester
from wsgi_tracker.spool import Spool


@pytest.mark.parametrize(
    ("content", "hits", "rejected"),
    [
        pytest.param(b"", 0, 0, id="empty"),
        pytest.param(GOOD + OTHER, 2, 0, id="good"),
        pytest.param(GOOD + b"5\n" + OTHER, 2, 1, id="number"),
        pytest.param(b"null\n" + GOOD, 1, 1, id="null"),
        pytest.param(b"{}\n" + GOOD, 1, 1, id="empty object"),
        pytest.param(b"[]\n" + GOOD, 1, 1, id="array"),
        pytest.param(b"\n" + GOOD + b"\n\n", 1, 3, id="empty lines"),
        pytest.param(GOOD[:-1] + b"," + OTHER + b'{"a":"x\ny"}\n', 1, 3, id="two in one, joined"),
        pytest.param(b'{"a":"x\ny"}\n' + GOOD, 1, 2, id="two that a comma would join"),
        pytest.param(GOOD[:-3].replace(b"null", b'"x', 1) + b"\n" + OTHER, 1, 1, id="open string"),
        pytest.param(b"\0\0\0\n" + GOOD + b"\0" + OTHER, 2, 2, id="NUL"),
        pytest.param(b"\xff\xfe\n" + GOOD, 1, 1, id="no UTF-8"),
        pytest.param(GOOD.replace(b"175508", b'"x"'), 0, 1, id="timestamp is text"),
        pytest.param(GOOD.replace(b"1755081000000000", b"1.5"), 0, 1, id="timestamp is real"),
        pytest.param(GOOD.replace(b"1755081000000000", b"-1"), 0, 1, id="before 1970"),
        pytest.param(GOOD.replace(b"1755081000000000", b"9" * 30), 0, 1, id="after 9999"),
        pytest.param(GOOD.replace(b'"/boxes"', b"null"), 0, 1, id="no endpoint"),
        pytest.param(GOOD.replace(b'"/boxes"', b"7"), 0, 1, id="endpoint is a number"),
        pytest.param(GOOD.replace(b'"status":null', b'"status":"x"'), 0, 1, id="status is text"),
        pytest.param(GOOD.replace(b"{", b'{"colour":"red",', 1), 1, 0, id="field from the future"),
        pytest.param(GOOD[:40] + OTHER, 1, 1, id="glued behind a torn one"),
        pytest.param(GOOD[:40] + OTHER[:40] + GOOD, 1, 1, id="glued behind two"),
        pytest.param(GOOD + OTHER[:-20], 1, 1, id="torn tail"),
        pytest.param(GOOD + OTHER[:-1], 2, 0, id="only the line's end is missing"),
        pytest.param(b"x" * 100_000 + b"\n" + GOOD, 1, 1, id="long garbage"),
        pytest.param(b"[" * 5000 + b"\n" + GOOD, 1, 1, id="deep"),
    ],
)
def test_all_that_is_readable_is_stored_and_the_rest_kept(
    content: bytes, hits: int, rejected: int, host: Host
) -> None:
    host.segment(content)

    host.ingest()
    host.ingest()

    counts = host.counts()
    assert host.hits() == hits
    assert counts.get("rejected", 0) + counts.get("torn", 0) == rejected
    assert counts.get("recorded", 0) == hits
    assert bool(host.rejected()) is bool(rejected)
    assert host.segments() == []


def test_line_longer_than_a_batch_does_not_stop_the_rest(host: Host) -> None:
    host.ingester._batch_bytes = 2000
    host.segment(GOOD * 20 + b"x" * 7000 + b"\n" + GOOD * 20)

    host.ingest()

    assert host.hits() == 40
    assert host.segments() == []


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"counts":{"dropped":1e400}}\n', id="infinite"),
        pytest.param(b'{"counts":{"dropped":NaN}}\n', id="not a number"),
        pytest.param(b'{"counts":{"dropped":%d}}\n' % 2**63, id="too large for SQLite"),
        pytest.param(b'{"counts":{"dropped":%s}}\n' % (b"9" * 5000), id="too large for int()"),
        pytest.param(b'{"counts":%s\n' % (b"[" * 200_000), id="too deep"),
        pytest.param(b'{"counts":{"dropped":"x"}}\n', id="text"),
        pytest.param(b'{"counts":[]}\n', id="array"),
        pytest.param(b'{"counts":{"dropped":\n', id="torn"),
        pytest.param(b'{"counts":{"\xff":1}}\n', id="no UTF-8"),
    ],
)
def test_counts_that_are_none_do_not_wedge_the_spool(line: bytes, host: Host) -> None:
    host.segment(line + GOOD)

    host.ingest()

    assert host.hits() == 1
    assert host.counts() == {"recorded": 1, "rejected": 1}
    assert host.segments() == []


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'"%s"\n' % GOOD.strip().replace(b'"', b'\\"'), id="visit within a string"),
        pytest.param(b"[%s]\n" % GOOD.strip(), id="visit within an array"),
        pytest.param(GOOD.replace(b"1755081000000000", b"true"), id="timestamp is true"),
        pytest.param(GOOD.replace(b'"status":null', b'"status":true'), id="status is true"),
        pytest.param(GOOD.replace(b'"/boxes"', b'{"a":1}'), id="endpoint is an object"),
        pytest.param(GOOD.replace(b'"/boxes"', b'["a"]'), id="endpoint is an array"),
    ],
)
def test_what_only_looks_like_a_visit_is_rejected(line: bytes, host: Host) -> None:
    host.segment(line + OTHER)

    host.ingest()

    assert host.hits() == 1
    assert host.rejected() == line


def test_nul_behind_a_bracket_does_not_hide_the_lines_that_follow(host: Host) -> None:
    """SQLite stops reading at a NUL: two visits in the first of two lines stood for both."""
    host.segment(GOOD[:-1] + b"," + OTHER[:-1] + b"]\0\n" + many(1))

    host.ingest()

    assert host.rejected().endswith(b"]\0\n")
    assert look(host.storage).visits(limit=9).visits[0].timestamp == 1_755_081_000_000_000
    assert host.counts() == {"recorded": 1, "rejected": 1}


def test_two_lines_that_join_are_not_made_good_by_two_visits_in_one(host: Host) -> None:
    """From 3.45 on, SQLite reads line ends within strings (JSON5)."""
    joined = GOOD.replace(b'"host":null', b'"host":"a\nb"')
    host.segment(GOOD[:-1] + b"," + OTHER + joined + many(1))

    host.ingest()

    assert {visit.host for visit in look(host.storage).visits(limit=9).visits} == {None}
    assert host.counts() == {"recorded": 2, "rejected": 2, "torn": 1}


def test_one_bad_line_among_thousands_costs_only_itself(host: Host) -> None:
    good = many(3000)
    cut = good.index(b"\n", len(good) // 2) + 1
    host.segment(good[:cut] + b"null\n" + good[cut:])

    host.ingest()

    assert host.hits() == 3000
    assert host.rejected() == b"null\n"


def test_visit_is_read_as_it_was_written(host: Host) -> None:
    written = [
        Visit(1_755_081_000_000_001, "a" * 32, "GET", "/boxes", "/boxes/7", 200, host="shop"),
        Visit(
            1_755_081_000_000_000, "b" * 32, "POST", "/boxes", user_agent="x", referer="https://y/"
        ),
    ]
    host.segment(b"".join(visit.line() for visit in written))

    host.ingest()

    assert look(host.storage).visits(limit=9).visits == written


class Timed(BeforeIngest):
    """Real storage, and the CPU time of each batch in seconds."""

    def __init__(self, storage: Any) -> None:
        super().__init__(storage, lambda: None)
        self.seconds: list[float] = []

    def ingest(self, *args: Any, **options: Any) -> Any:
        began = time.thread_time()
        try:
            return self._storage.ingest(*args, **options)
        finally:
            self.seconds.append(time.thread_time() - began)


NO_VISIT = b'{"timestamp":1,"method":2,"endpoint":"x"}\n'


@pytest.mark.once
@pytest.mark.parametrize(
    ("unit", "good", "bad"),
    [
        pytest.param(b"x\n", 0, 1, id="short"),
        pytest.param(b'{"timestamp":1,"colour":"red"}\n', 0, 1, id="objects"),
        pytest.param(NO_VISIT, 0, 1, id="nearly visits"),
        pytest.param(GOOD + NO_VISIT, 1, 1, id="every second line"),
        pytest.param(GOOD * 30 + NO_VISIT, 30, 1, id="some"),
        pytest.param(b'{"counts":[[[[[[\n', 0, 1, id="nearly counts"),
    ],
)
def test_segment_full_of_what_is_no_visit_holds_the_database_only_for_moments(
    unit: bytes, good: int, bad: int, host: Host
) -> None:
    """A report waited for a minute and a half, and so did everybody who writes."""
    count = (2 << 20) // len(unit)
    storage = host.ingester._storage = Timed(host.storage)
    host.segment(unit * count + OTHER)

    host.ingest()

    assert host.counts() == {"recorded": good * count + 1, "rejected": bad * count}
    assert host.hits() == good * count + 1
    assert max(storage.seconds) < 1.0
    assert host.segments() == []


def test_batches_grow_again_behind_lines_that_are_no_visits(host: Host) -> None:
    host.segment((GOOD + NO_VISIT) * 1000)
    host.ingest()
    small = host.ingester._careful_bytes
    for _ in range(10):
        host.segment(GOOD)
        host.ingest()

    assert small < 1 << 20
    assert host.ingester._careful_bytes == BATCH_BYTES
    assert host.counts() == {"recorded": 1010, "rejected": 1000}


@pytest.mark.parametrize("durable", [True, False])
def test_rejected_line_is_kept_before_its_segment_may_go(
    durable: bool, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed behind the commit had counted it, and kept it nowhere."""
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), real(fd))[1])
    path = host.folder / "rejected.ndjson"

    class Storage(BeforeIngest):
        def ingest(self, *args: Any, **options: Any) -> Any:
            self._storage.ingest(*args, **options)
            raise KeyboardInterrupt  # as if killed

    spool = Spool(host.folder)
    spool.append(b"garbage\n")
    ingester = Ingester(Storage(host.storage, lambda: None), host.folder, durable=durable)
    with pytest.raises(KeyboardInterrupt):
        ingester.run_once()

    assert host.counts() == {"rejected": 1}
    assert path.read_bytes() == b"garbage\n"
    assert (path.stat().st_ino in synced) == durable
    spool.close()


def test_commit_that_fails_takes_the_rejected_lines_back(host: Host) -> None:
    host.segment(b"first\n")
    host.ingest()
    host.segment(b"second\n")

    class Storage(BeforeIngest):
        def ingest(self, *args: Any, kept: Any, **options: Any) -> Any:
            def kept_and_failing(lines: Any) -> Any:
                with kept(lines):
                    seen.append(host.rejected())
                    raise StorageError("disk is full")

            self._storage.ingest(*args, kept=kept_and_failing, **options)

    seen: list[bytes] = []
    real, host.ingester._storage = host.storage, Storage(host.storage, lambda: None)
    for _ in range(2):
        with pytest.raises(StorageError):
            host.ingest()
    after_failure = host.rejected()
    host.ingester._storage = real
    host.ingest()

    assert seen == [b"first\nsecond\n"] * 2
    assert after_failure == b"first\n"
    assert host.rejected() == b"first\nsecond\n"


def test_full_file_of_rejected_lines_is_logged(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsgi_tracker.rejected.MAX_BYTES", 10)
    for _ in range(3):
        host.segment(b"some garbage\n")
        host.ingest()

    (message,) = caplog.messages
    assert host.rejected() == b"some garbage\n"
    assert "not kept" in message
    assert "move it away" in message
    assert host.counts() == {"rejected": 3}


def test_line_behind_one_that_was_cut_is_a_line(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
        host.segment(b"some garbage\n")
        host.ingest()
    host.segment(b"more\n")
    host.ingest()

    assert host.rejected() == b"more\n"
