"""The book of the SQLite store: the one connection that writes.

Lives here: carrying out a group of verbs in one transaction, the memory of young jobs that spares
most verbs a look at the file, checkpoints of the log, and the schema's migrations.
Not here: which thread does it and when (`store.sqlite`), what verbs decide (`store.verbs`).

As only this process writes (a lock sees to it), verbs look and decide before the transaction
begins: it holds nothing but the writes, and most verbs that fail never begin one.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from cook_jupyter.errors import CookError, InvalidRequest, SchedulerError, StoreDamaged, StoreFull
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import Group, Job, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import FREE_FAILURES, FreeFailures
from cook_jupyter.store import sql
from cook_jupyter.store.draft import Draft, is_unfinished
from cook_jupyter.store.sqlite_rows import (
    QUERIES,
    Rows,
    Synchronous,
    connect,
    damage_of,
    damaged,
    encode,
    job_row,
    labels_text,
    life_row,
    said_of,
)

Verb = Callable[[Draft], Any]

OLDEST_SQLITE = (3, 51, 3)  # before it, a checkpoint at the wrong moment could damage the file
APPLICATION_ID = 0x436F6F6B  # "Cook", in the file's header
FILE_CHECK_INTERVAL_S = 0.05  # how long a store may go on that was just taken away
CHECKED_AT_OPEN_BYTES = 64 * 1024 * 1024  # a tenth of a second
STORE_ID = "store_id"  # a key among the texts
YOUNG_JOBS = 20_000
YOUNG_BYTES = 64 * 1024 * 1024  # of specs as JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What became of a group of verbs: for each its answer or its error, and all changes in order."""

    outcomes: Sequence[Any]
    changes: Sequence[JobChange]


class SqliteBook:
    """The writing connection. For one thread at a time, not always the same.

    Attributes:
        path: the file.
        store_id: the id that was made with the store.
        seq: the place of the newest job in the order of creation.
        change: the highest change number given out.
        log_pages: how much of the write-ahead log no checkpoint has looked at yet.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Synchronous,
        vfs: str | None = None,
        free: FreeFailures = FREE_FAILURES,
    ) -> None:
        """Open the file, make it if need be, and bring its schema up to date.

        Raises:
            SchedulerError: it is a newer store, or SQLite is too old.
            StoreDamaged: it is no store, or is damaged. A large file is looked through later: `find_damage`.
            StoreBusy: another program has locked it.
            StoreFull: there is no room to write.
        """
        refuse_old_sqlite(apsw.sqlite_lib_version())
        self.path = path
        self.free = free
        self._synchronous: Synchronous = synchronous
        self._vfs = vfs
        self._files_seen_at = 0.0
        self.log_pages = 0
        self._patience_ms = -1
        self._looked_at = 0  # how long the log was at the last checkpoint
        self._young = _YoungJobs()
        try:
            self._connection = connect(path, synchronous=synchronous, vfs=vfs)
        except (apsw.Error, OSError) as error:
            raise _opening(error, path) from error
        try:
            if os.stat(path).st_size <= CHECKED_AT_OPEN_BYTES:  # noqa: PTH116
                self._require_undamaged()
            migrate(self._connection, sql.migrations("sqlite"), path)
            self._connection.set_wal_hook(self._log_grew)
            self._rows = Rows(self._connection)
            self.seq, self.change = self._rows.last_numbers()
            self.store_id = self._identify()
            self._files = {file: _identity(file) for file in (path, path.with_name(path.name + "-wal"))}
        except BaseException as error:
            self.close()
            if isinstance(error, apsw.Error):
                raise _opening(error, path) from error
            raise

    def job(self, job_id: JobId) -> Job | None:
        """Return the job, from memory if it is young."""
        return self._young.job(job_id) or self._rows.job(job_id)

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job of an instance, from memory if it is young."""
        return self._young.job_of(instance_id) or self._rows.job_of(instance_id)

    def known_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Return those of the ids that are in use."""
        return self._rows.known_jobs(job_ids)

    def knows_instance(self, instance_id: InstanceId) -> bool:
        """Tell whether the id is in use."""
        return self._rows.knows_instance(instance_id)

    def known_groups(self, group_ids: Sequence[str]) -> set[str]:
        """Return those of the groups that are stored."""
        return self._rows.known_groups(group_ids)

    def reader(self) -> Rows:
        """Open a second connection, for questions alone. It sees all that was committed."""
        try:
            return Rows(connect(self.path, synchronous=self._synchronous, read_only=True, vfs=self._vfs))
        except apsw.Error as error:
            raise _opening(error, self.path) from error

    def carry_out(self, verbs: Sequence[Verb], *, patience_ms: int) -> Carried:
        """Carry out verbs in one transaction; each succeeds or fails alone.

        If the disk has no room all of them fail and nothing is changed. If the writes of one are
        at fault, which no verb should let happen, each is carried out again in a transaction of
        its own.

        Args:
            verbs: in the order in which they take effect.
            patience_ms: how long to wait for another program that locks the file.

        Raises:
            apsw.BusyError: with no patience at all, the file is locked. Nothing was changed.
        """
        if patience_ms != self._patience_ms:
            self._connection.set_busy_timeout(patience_ms)
            self._patience_ms = patience_ms
        group, outcomes = self._decide(verbs)
        if group.is_empty:
            return Carried(outcomes=outcomes, changes=())
        try:
            self._write(group)
        except Exception as error:
            if isinstance(error, apsw.BusyError) and patience_ms == 0:
                raise
            return self._apart(verbs, error, patience_ms=patience_ms)
        return Carried(outcomes=outcomes, changes=group.changes)

    def broken(self) -> str | None:
        """Return what has become of the files, if they are not those that were opened.

        What is written to a file that was removed or replaced is gone when this process ends.
        """
        for file, identity in self._files.items():
            if identity is not None and (now := _identity(file)) != identity:
                change = "removed" if now is None else "replaced"
                return (
                    f"the file {file} of the store was {change} while the scheduler ran: nothing that is"
                    " written to the store would last"
                )
        return None

    def _require_undamaged(self) -> None:
        if (damage := damage_of(self._connection)) is not None:
            raise damaged(self.path, damage)

    def is_checked(self) -> bool:
        """Return whether the file was small enough to be looked through when it was opened."""
        return os.stat(self.path).st_size <= CHECKED_AT_OPEN_BYTES  # noqa: PTH116

    def _identify(self) -> str:
        """The id of the store; made now if the store is new."""
        store_id = self._rows.text(STORE_ID)
        if store_id is None:
            store_id = uuid.uuid4().hex
            with self._connection:
                self._connection.execute(QUERIES["store_text"], (STORE_ID, store_id))
        return store_id

    def checkpoint(self) -> None:
        """Carry the log into the file, as far as other programs' readers let us."""
        try:
            self._looked_at, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error:  # the log keeps what it holds; verbs themselves tell of a full disk
            self._looked_at += self.log_pages
        self.log_pages = 0

    def close(self) -> None:
        """Close the connection; what is in the log stays safe there if it cannot be carried over."""
        try:
            self._connection.close()
        except apsw.Error:
            self._connection.close(force=True)

    def _decide(self, verbs: Sequence[Verb]) -> tuple[Draft, Sequence[Any]]:
        """Let each verb look and decide; returns all they want written, and their answers and errors."""
        group = Draft(self)
        outcomes = []
        for verb in verbs:
            draft = Draft(group) if len(verbs) > 1 else group
            try:
                outcomes.append(verb(draft))
            except Exception as error:  # noqa: BLE001 whoever asked for the verb is told
                outcomes.append(said_of(error, self.path))
                if draft is group:
                    group = Draft(self)
                continue
            if draft is not group:
                group.merge(draft)
        return group, outcomes

    def _apart(self, verbs: Sequence[Verb], error: Exception, *, patience_ms: int) -> Carried:
        """What becomes of verbs whose common transaction failed."""
        said = said_of(error, self.path)
        if isinstance(said, StoreFull) or isinstance(error, apsw.BusyError):
            return Carried(outcomes=[said_of(error, self.path) for _ in verbs], changes=())
        if len(verbs) == 1:
            if isinstance(error, (UnicodeEncodeError, OverflowError, TypeError, ValueError)):
                said = InvalidRequest(f"this cannot be stored: {error}")
            return Carried(outcomes=[said], changes=())
        each = [self.carry_out([verb], patience_ms=patience_ms) for verb in verbs]
        return Carried(
            outcomes=[outcome for one in each for outcome in one.outcomes],
            changes=[change for one in each for change in one.changes],
        )

    def _write(self, draft: Draft) -> None:
        """Write a draft in one transaction, and only then take its values over."""
        now = time.monotonic()
        if (
            now - self._files_seen_at >= FILE_CHECK_INTERVAL_S
        ):  # two system calls, beside some ten of a commit
            if (why := self.broken()) is not None:
                raise StoreDamaged(why)
            self._files_seen_at = now
        rows = _Rows(draft)
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        try:
            for name, bindings in rows.statements:
                self._connection.executemany(QUERIES[name], bindings)
            run("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                run("ROLLBACK")
            if isinstance(error, apsw.IOError):
                self._write_over()
            raise
        self.seq, self.change = draft.seq, draft.change
        self._young.take(rows.touched)

    def _write_over(self) -> None:
        """Write over what a commit left in the log that could not be synced.

        It counts as not done; but it is whole, and after a crash SQLite would take it for done. The
        least of writes will do, and need not be synced. If not even that succeeds, the next verb's will.
        """
        run = self._connection.execute
        with suppress(apsw.Error):
            run("PRAGMA synchronous = NORMAL")
            ((version,),) = run("PRAGMA user_version")
            run(f"PRAGMA user_version = {version}")
        run(f"PRAGMA synchronous = {self._synchronous}")

    def _log_grew(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        if pages < self._looked_at:  # it has begun anew
            self._looked_at = 0
        self.log_pages = pages - self._looked_at
        return 0


class _Rows:
    """A draft as rows. Whatever cannot be encoded shows itself here, before the transaction.

    Attributes:
        statements: the names of statements, each with the rows to run it for.
        touched: the jobs that are written, each with whether it may go on and, if it is new, the
            size of its spec.
    """

    def __init__(self, draft: Draft) -> None:
        self.statements: list[tuple[str, Sequence[Sequence[Any]]]] = []
        self.touched: list[tuple[Job, bool, int | None]] = []
        if draft.created:
            self._add_created(draft.created.values())
        if draft.altered:
            self._add_altered(draft.altered.values())
        if draft.placed:
            seqs = {**draft.created, **draft.altered}
            self._add("insert_instance", [(i, seqs[job_id].seq) for i, job_id in draft.placed.items()])
        if draft.results:
            self._add(
                "insert_result",
                [(seq, i, told.inline, told.blob, told.size) for i, (seq, told) in draft.results.items()],
            )
        if draft.groups:
            self._add("insert_group", [_group_row(group) for group in draft.groups.values()])
        for wish in draft.limits:
            if isinstance(wish, LimitEntry):
                row = (wish.kind, wish.user, wish.pool, wish.name, wish.amount, wish.reason)
                self._add("store_limit", [row])
            else:
                self._add("retract_limits", [wish])
        if draft.texts:
            self._add("store_text", list(draft.texts.items()))

    def _add(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        self.statements.append((name, rows))

    def _add_created(self, jobs: Iterable[Job]) -> None:
        job_rows, spec_rows = [], []
        for job in jobs:
            goes_on = is_unfinished(job)
            spec = encode(job.spec)
            job_rows.append(job_row(job, unfinished=goes_on))
            spec_rows.append((job.seq, labels_text(job.spec.labels), spec))
            self.touched.append((job, goes_on, len(spec)))
        self._add("insert_job", job_rows)
        self._add("insert_spec", spec_rows)

    def _add_altered(self, jobs: Iterable[Job]) -> None:
        rows = []
        for job in jobs:
            goes_on = is_unfinished(job)
            rows.append(life_row(job, unfinished=goes_on))
            self.touched.append((job, goes_on, None))
        self._add("update_job", rows)


@dataclass(slots=True)
class _YoungJobs:
    """Jobs that were written lately and may go on, the least recently touched first.

    Most jobs are launched and end soon after they were touched: their verbs then need not read
    them from the file. Only what was committed comes in here.
    """

    _jobs: dict[JobId, tuple[Job, InstanceId | None, int]] = field(default_factory=dict)
    _placed: dict[InstanceId, JobId] = field(default_factory=dict)
    _bytes: int = 0

    def job(self, job_id: JobId) -> Job | None:
        """Return a job that is held here, or None."""
        held = self._jobs.get(job_id)
        return None if held is None else held[0]

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job of an open instance, or None if it is not held here."""
        job_id = self._placed.get(instance_id)
        return None if job_id is None else self._jobs[job_id][0]

    def take(self, touched: Iterable[tuple[Job, bool, int | None]]) -> None:
        """Take over jobs that were written, and drop what has ended or is too much."""
        for job, goes_on, size in touched:
            job_id = job.spec.job_id
            known = self._drop(job_id) if size is None else size
            if goes_on:
                self._hold(job_id, job, _size(job) if known is None else known)
        while len(self._jobs) > YOUNG_JOBS or self._bytes > YOUNG_BYTES:
            self._drop(next(iter(self._jobs)))

    def _hold(self, job_id: JobId, job: Job, size: int) -> None:
        alive = job.open_instance
        instance_id = None if alive is None else alive.instance_id
        self._jobs[job_id] = job, instance_id, size
        self._bytes += size
        if instance_id is not None:
            self._placed[instance_id] = job_id

    def _drop(self, job_id: JobId) -> int | None:
        """Forget a job; returns its size if it was held."""
        held = self._jobs.pop(job_id, None)
        if held is None:
            return None
        _, instance_id, size = held
        self._bytes -= size
        if instance_id is not None:
            del self._placed[instance_id]
        return size


def refuse_old_sqlite(version: str) -> None:
    """Refuse a SQLite whose write-ahead log is not to be trusted.

    Raises:
        SchedulerError: it is older than 3.51.3.
    """
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise SchedulerError(
            f"SQLite {version} can damage a store that keeps a write-ahead log; {needed} or newer is needed: "
            "pip install -U apsw"
        )


def migrate(connection: apsw.Connection, scripts: Sequence[str], path: Path) -> None:
    """Bring the schema up to date, each script in a transaction of its own.

    Raises:
        SchedulerError: the file is some other program's, or of a newer schema than this one knows.
    """
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
    if application != APPLICATION_ID and (application or version or tables):
        raise SchedulerError(f"{path} is a database of another program; choose another path for the store")
    if version > len(scripts):
        raise SchedulerError(
            f"the store {path} was written by a newer cook_jupyter (schema {version}; this one knows "
            f"{len(scripts)}): upgrade cook_jupyter"
        )
    for number, script in enumerate(scripts[version:], start=version + 1):
        with connection:
            connection.execute(script)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at a path; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - for each transaction
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _group_row(group: Group) -> Sequence[Any]:
    return group.group_id, group.name, encode(group.host_placement), encode(group.straggler_handling)


def _opening(error: Exception, path: Path) -> Exception:
    """What is said of an error while opening, when "nothing was changed" is not the point."""
    if isinstance(error, (OSError, apsw.CantOpenError)):
        return SchedulerError(f"cannot open the store {path}: {error}")
    said = said_of(error, path)
    return said if isinstance(said, CookError) else SchedulerError(f"cannot open the store {path}: {error}")


def _size(job: Job) -> int:
    """About how much room the spec of a job takes that came from the file."""
    spec = job.spec
    return 500 + len(spec.command) + sum(map(len, spec.env.values()))
