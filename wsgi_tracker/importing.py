"""Move a log into storage: each line exactly once, however often and under whatever name it comes.

A thread stores one batch while the next is read: SQLite does not hold the GIL. Between two batches
whatever waits in the spool is ingested, so that an application beside it is not kept waiting.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields

from .backend import Backend
from .errors import StorageError
from .hostlock import HostLock
from .ingest import spool_errors
from .logfile import LONGEST_LINE, Block, LogFile
from .logs import BadLineError
from .logvisits import Pack, Packer
from .storage import Batch, Packed, Positions

SAME_BEGINNING = 64  # logs that begin with the same line, and go on otherwise
LOCK_PATIENCE_SECONDS = 60.0
BATCHES_AHEAD = 2


@dataclass(slots=True)
class Imported:
    """What became of a log's lines; ``skipped`` were imported before, ``old`` are past retention."""

    visits: int = 0
    rejected: int = 0
    ignored: int = 0
    old: int = 0
    skipped: int = 0

    @property
    def lines(self) -> int:
        """How many lines there were, blank ones left out."""
        return self.visits + self.rejected + self.ignored + self.old

    def add(self, other: Imported) -> None:
        """Add what became of other lines."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))


@dataclass(frozen=True, slots=True)
class Mark:
    """By what a log is known: ``id`` has the position of what was imported, ``proof`` proves it."""

    id: str
    start: int = 0
    proof: str | None = None


def resume(log: LogFile, known: Callable[[list[str]], Positions]) -> Mark | None:
    """Go behind what was imported of a log, whatever its name was then; ``None`` for a stream.

    Logs may begin with the same line, so the one that was imported is told by all of its content.
    """
    if log.is_stream:
        return None
    first = log.first_line()
    ids = [f"log-{_digest(first)}-{number}" for number in range(SAME_BEGINNING)]
    positions = known(ids)
    for id, position in sorted(positions.items(), key=lambda pair: -pair[1]):
        log.rewind()
        if log.skip(position) and known([log.proof]).get(log.proof) == position:
            return Mark(id, position, log.proof)
    free = next((id for id in ids if id not in positions), None)
    if free is None:
        raise StorageError(f"{SAME_BEGINNING} other logs begin as {log.name} does: is it a log?")
    log.rewind()
    return Mark(free)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Importer:
    """Import logs into a backend's storage.

    Visits before ``kept_from`` are left out, as nothing shows them. ``on_reject`` gets the log, the
    number of the line and the reason; ``on_progress`` gets the log and what was imported so far.
    """

    def __init__(
        self,
        backend: Backend,
        kept_from: int,
        on_reject: Callable[[LogFile, int, str], None],
        on_progress: Callable[[LogFile, Imported], None] = lambda log, imported: None,
    ) -> None:
        self._backend = backend
        self._kept_from = kept_from
        self._on_reject = on_reject
        self._on_progress = on_progress
        self._host_lock = HostLock.of(backend.spool.folder)
        self._failed = False

    def run(
        self,
        log: LogFile,
        mark: Mark | None,
        choose: Callable[[list[bytes]], Packer],
        imported: Imported,
    ) -> None:
        """Import what ``log`` has from where it is; without a mark, it is not known again.

        ``choose`` says by the log's first lines what makes visits of them. To ``imported`` is added
        what is stored, so that it is exact, whatever interrupts this.
        """
        packer: Packer | None = None
        with ThreadPoolExecutor(1) as pool:
            stored: deque[Future[None]] = deque()
            for block in log.blocks():
                if packer is None and log.first_lines:
                    packer = choose(log.first_lines)
                batch, fate = Batch(), Imported()
                if packer is not None:
                    batch.packed = self._pack(log, block, packer, fate)
                stored.append(pool.submit(self._store, batch, block, mark, fate, imported))
                mark = mark and Mark(mark.id, block.position, block.proof)
                if len(stored) >= BATCHES_AHEAD:
                    stored.popleft().result()
                self._on_progress(log, imported)
            for future in stored:
                future.result()

    def _pack(self, log: LogFile, block: Block, packer: Packer, fate: Imported) -> Packed:
        pack, add = Pack(self._kept_from), packer.add
        for number, line in enumerate(block.lines, block.first_line):
            try:
                if len(line) > LONGEST_LINE:
                    raise BadLineError(f"it is longer than {LONGEST_LINE:,} bytes")
                if not add(line, pack):
                    fate.ignored += 1
            except BadLineError as error:
                if line.strip():
                    fate.rejected += 1
                    self._on_reject(log, number, str(error))
        fate.visits, fate.old = len(pack), pack.old
        return pack.packed()

    def _store(
        self, batch: Batch, block: Block, mark: Mark | None, fate: Imported, imported: Imported
    ) -> None:
        """Store a batch, and that the log is stored to there."""

        def read(positions: Positions) -> Batch:
            if mark is not None and positions.get(mark.id, 0) != mark.start:
                raise StorageError("another process imports the same log")
            return batch

        if self._failed:  # else a batch would be missing before this one
            raise StorageError("the batch before was not stored")
        self._failed = True
        if mark is not None:
            batch.positions = dict.fromkeys((mark.id, block.proof), block.position)
            batch.finished = [mark.proof] if mark.proof else []
        self._backend.ingester.run_once()
        with self._locked():
            ids = [mark.id] if mark else []
            self._backend.storage.ingest(ids, read, durable=False)
            imported.add(fate)
            while self._backend.storage.count():
                pass
            self._backend.storage.tidy()
        self._failed = False

    def finish(self) -> None:
        """Count what was imported, so that reports are fast."""
        more = True
        while more:
            with self._locked():
                more = self._backend.storage.count(enough=1)
            more = more or self._backend.storage.load_classifier()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the one who writes; whoever ingests beside us lets go after each batch."""
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            with spool_errors(), self._host_lock.held() as ours:
                if ours:
                    yield
                    return
            if time.monotonic() > deadline:
                raise StorageError("another process ingests all the time: nothing is imported")
            time.sleep(0.002)
