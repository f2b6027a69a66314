"""The writing connection of the SQLite store.

Lives here: commits of batches of commands, the cache of recent jobs that saves most commands a read of the
file, checkpoints of the log, and migrations of the schema.
Not here: threads and scheduling (`store.sqlite`), the commands themselves (`store.commands`).

Only this process writes (a lock file ensures that), so commands run before the transaction begins. The
transaction contains nothing but writes, and most commands that fail never begin one.
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
from cook_jupyter.model.job import Group, GroupId, Job, JobId
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMITS, MeaCulpaLimits
from cook_jupyter.store import sql
from cook_jupyter.store.changeset import Changeset, is_unfinished
from cook_jupyter.store.sqlite_reader import (
    QUERIES,
    SqliteReader,
    Synchronous,
    connect,
    damage_error,
    damage_of,
    encode,
    job_row,
    labels_text,
    life_row,
    translate_error,
)

Command = Callable[[Changeset], Any]

MIN_SQLITE = (3, 51, 3)  # in older versions, a checkpoint at the wrong moment can damage the file
APPLICATION_ID = 0x436F6F6B  # "Cook", in the file's header
FILE_CHECK_INTERVAL_S = 0.05  # interval of the check that the files have not been removed or replaced
CHECKED_AT_OPEN_BYTES = 64 * 1024 * 1024  # takes a tenth of a second; larger files are checked in a thread
STORE_ID = "store_id"  # a key of the texts
MAX_CACHED_JOBS = 20_000
MAX_CACHED_BYTES = 64 * 1024 * 1024  # size of the specs as JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOutcome:
    """The outcome of a batch of commands.

    Attributes:
        outcomes: reply or error of each command.
        changes: changes of all commands, in order.
    """

    outcomes: Sequence[Any]
    changes: Sequence[JobChange]


class SqliteWriter:
    """The writing connection, for use by one thread at a time.

    Attributes:
        path: the file.
        store_id: the unique id of the store.
        seq: sequence number of the newest job, in the order of creation.
        change: the highest change number.
        log_pages: number of pages in the write-ahead log since the last checkpoint.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Synchronous,
        vfs: str | None = None,
        free: MeaCulpaLimits = DEFAULT_MEA_CULPA_LIMITS,
    ) -> None:
        """Open or create the file and migrate its schema to the newest version.

        Args:
            path: the file.
            synchronous: durability of commits, as for `SqliteStore`.
            vfs: name of a registered SQLite VFS; None for SQLite's own.
            free: the mea-culpa failures that cost a job no retry.

        Raises:
            SchedulerError: the store was written by a newer cook_jupyter, or SQLite is too old.
            StoreDamaged: the file is not a store, or is damaged. Large files are checked later, in a thread.
            StoreBusy: another program has locked the file.
            StoreFull: the disk is full.
        """
        refuse_old_sqlite(apsw.sqlite_lib_version())
        self.path = path
        self.free = free
        self._synchronous: Synchronous = synchronous
        self._vfs = vfs
        self._files_checked_at = 0.0
        self.log_pages = 0
        self._busy_timeout_ms = -1
        self._checkpointed_pages = 0  # length of the log at the last checkpoint
        self._cache = _JobCache()
        try:
            self._connection = connect(path, synchronous=synchronous, vfs=vfs)
        except (apsw.Error, OSError) as error:
            raise _opening_error(error, path) from error
        try:
            if os.stat(path).st_size <= CHECKED_AT_OPEN_BYTES:  # noqa: PTH116
                self._require_undamaged()
            migrate(self._connection, sql.migrations("sqlite"), path)
            self._connection.set_wal_hook(self._on_log_growth)
            self._rows = SqliteReader(self._connection)
            self.seq, self.change = self._rows.last_numbers()
            self.store_id = self._identify()
            self._files = {file: _identity(file) for file in (path, path.with_name(path.name + "-wal"))}
        except BaseException as error:
            self.close()
            if isinstance(error, apsw.Error):
                raise _opening_error(error, path) from error
            raise

    def job(self, job_id: JobId) -> Job | None:
        """Return a job, from the cache if possible."""
        return self._cache.job(job_id) or self._rows.job(job_id)

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job of an instance, from the cache if possible."""
        return self._cache.job_of(instance_id) or self._rows.job_of(instance_id)

    def existing_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Return those of the ids that are in use."""
        return self._rows.existing_jobs(job_ids)

    def has_instance(self, instance_id: InstanceId) -> bool:
        """Return whether an instance with this id exists."""
        return self._rows.has_instance(instance_id)

    def existing_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        """Return those of the groups that are stored."""
        return self._rows.existing_groups(group_ids)

    def reader(self) -> SqliteReader:
        """Open a read-only connection, which sees everything that is committed."""
        try:
            return SqliteReader(
                connect(self.path, synchronous=self._synchronous, read_only=True, vfs=self._vfs)
            )
        except apsw.Error as error:
            raise _opening_error(error, self.path) from error

    def commit(self, commands: Sequence[Command], *, busy_timeout_ms: int) -> CommitOutcome:
        """Execute commands and commit them in one transaction; each succeeds or fails alone.

        If the disk is full, all of them fail and nothing is changed. If a write fails for another reason,
        which no command should cause, each command is executed again in its own transaction.

        Args:
            commands: the commands, in the order in which they take effect.
            busy_timeout_ms: time to wait for a lock of another program; 0 to fail immediately.

        Raises:
            apsw.BusyError: the file is locked and `busy_timeout_ms` is 0. Nothing was changed.
        """
        if busy_timeout_ms != self._busy_timeout_ms:
            self._connection.set_busy_timeout(busy_timeout_ms)
            self._busy_timeout_ms = busy_timeout_ms
        batch, outcomes = self._decide(commands)
        if batch.is_empty:
            return CommitOutcome(outcomes=outcomes, changes=())
        try:
            self._write(batch)
        except Exception as error:
            if isinstance(error, apsw.BusyError) and busy_timeout_ms == 0:
                raise
            return self._commit_separately(commands, error, busy_timeout_ms=busy_timeout_ms)
        return CommitOutcome(outcomes=outcomes, changes=batch.changes)

    def broken(self) -> str | None:
        """Return which file was removed or replaced since the store was opened, else None.

        Writes to a removed or replaced file are lost when this process ends.
        """
        for file, identity in self._files.items():
            if identity is not None and (current := _identity(file)) != identity:
                event = "removed" if current is None else "replaced"
                return (
                    f"the file {file} of the store was {event} while the scheduler ran: nothing that is"
                    " written to the store would last"
                )
        return None

    def _require_undamaged(self) -> None:
        if (damage := damage_of(self._connection)) is not None:
            raise damage_error(self.path, damage)

    def is_checked(self) -> bool:
        """Return whether the file is so small that it was checked for damage when it was opened."""
        return os.stat(self.path).st_size <= CHECKED_AT_OPEN_BYTES  # noqa: PTH116

    def _identify(self) -> str:
        """Return the id of the store; create one if the store is new."""
        store_id = self._rows.text(STORE_ID)
        if store_id is None:
            store_id = uuid.uuid4().hex
            with self._connection:
                self._connection.execute(QUERIES["store_text"], (STORE_ID, store_id))
        return store_id

    def checkpoint(self) -> None:
        """Copy the log into the file, as far as readers of other programs permit."""
        try:
            self._checkpointed_pages, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error:  # nothing is lost from the log; if the disk is full, commands report it
            self._checkpointed_pages += self.log_pages
        self.log_pages = 0

    def close(self) -> None:
        """Close the connection; the log keeps everything that cannot be copied into the file."""
        try:
            self._connection.close()
        except apsw.Error:
            self._connection.close(force=True)

    def _decide(self, commands: Sequence[Command]) -> tuple[Changeset, Sequence[Any]]:
        """Execute commands without writing; return their combined changes, and the reply or error of each."""
        batch = Changeset(self)
        outcomes = []
        for command in commands:
            changeset = Changeset(batch) if len(commands) > 1 else batch
            try:
                outcomes.append(command(changeset))
            except Exception as error:  # noqa: BLE001 - passed on to the caller
                outcomes.append(translate_error(error, self.path))
                if changeset is batch:
                    batch = Changeset(self)
                continue
            if changeset is not batch:
                batch.merge(changeset)
        return batch, outcomes

    def _commit_separately(
        self, commands: Sequence[Command], error: Exception, *, busy_timeout_ms: int
    ) -> CommitOutcome:
        """Return the outcome of commands whose common transaction failed, after another attempt if useful."""
        store_error = translate_error(error, self.path)
        if isinstance(store_error, StoreFull) or isinstance(error, apsw.BusyError):
            return CommitOutcome(outcomes=[translate_error(error, self.path) for _ in commands], changes=())
        if len(commands) == 1:
            if isinstance(error, (UnicodeEncodeError, OverflowError, TypeError, ValueError)):
                store_error = InvalidRequest(f"this cannot be stored: {error}")
            return CommitOutcome(outcomes=[store_error], changes=())
        commits = [self.commit([command], busy_timeout_ms=busy_timeout_ms) for command in commands]
        return CommitOutcome(
            outcomes=[outcome for committed in commits for outcome in committed.outcomes],
            changes=[change for committed in commits for change in committed.changes],
        )

    def _write(self, changeset: Changeset) -> None:
        """Write a changeset in one transaction, then update the state in memory."""
        now = time.monotonic()
        if now - self._files_checked_at >= FILE_CHECK_INTERVAL_S:  # 2 system calls; a commit has about 10
            if (problem := self.broken()) is not None:
                raise StoreDamaged(problem)
            self._files_checked_at = now
        rows = _RowsToWrite(changeset)
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for name, bindings in rows.statements:
                self._connection.executemany(QUERIES[name], bindings)
            execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            if isinstance(error, apsw.IOError):
                self._overwrite_unsynced()
            raise
        self.seq, self.change = changeset.seq, changeset.change
        self._cache.update(rows.touched)

    def _overwrite_unsynced(self) -> None:
        """Overwrite the frames of a commit that could not be synced.

        The commit was reported as failed, but its frames in the log are complete, so after a crash SQLite
        would recover it. Any small write overwrites them, even without a sync; if it fails, the write of the
        next command does.
        """
        execute = self._connection.execute
        with suppress(apsw.Error):
            execute("PRAGMA synchronous = NORMAL")
            ((version,),) = execute("PRAGMA user_version")
            execute(f"PRAGMA user_version = {version}")
        execute(f"PRAGMA synchronous = {self._synchronous}")

    def _on_log_growth(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        if pages < self._checkpointed_pages:  # SQLite has restarted the log
            self._checkpointed_pages = 0
        self.log_pages = pages - self._checkpointed_pages
        return 0


class _RowsToWrite:
    """A changeset as rows. Values that cannot be encoded raise here, before the transaction.

    Attributes:
        statements: names of statements, each with the rows to execute it for.
        touched: written jobs, each with whether it is unfinished and, if it is new, the size of its spec.
    """

    def __init__(self, changeset: Changeset) -> None:
        self.statements: list[tuple[str, Sequence[Sequence[Any]]]] = []
        self.touched: list[tuple[Job, bool, int | None]] = []
        if changeset.created:
            self._add_created(changeset.created.values())
        if changeset.altered:
            self._add_altered(changeset.altered.values())
        if changeset.instance_jobs:
            seqs = {**changeset.created, **changeset.altered}
            self._add(
                "insert_instance", [(i, seqs[job_id].seq) for i, job_id in changeset.instance_jobs.items()]
            )
        if changeset.results:
            self._add(
                "insert_result",
                [
                    (seq, i, result.inline, result.blob, result.size)
                    for i, (seq, result) in changeset.results.items()
                ],
            )
        if changeset.groups:
            self._add("insert_group", [_group_row(group) for group in changeset.groups.values()])
        for limit_change in changeset.limits:
            if isinstance(limit_change, LimitEntry):
                row = (
                    limit_change.kind,
                    limit_change.user,
                    limit_change.pool,
                    limit_change.name,
                    limit_change.amount,
                    limit_change.reason,
                )
                self._add("store_limit", [row])
            else:
                self._add("retract_limits", [limit_change])
        if changeset.texts:
            self._add("store_text", list(changeset.texts.items()))

    def _add(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        self.statements.append((name, rows))

    def _add_created(self, jobs: Iterable[Job]) -> None:
        job_rows, spec_rows = [], []
        for job in jobs:
            unfinished = is_unfinished(job)
            spec = encode(job.spec)
            job_rows.append(job_row(job, unfinished=unfinished))
            spec_rows.append((job.seq, labels_text(job.spec.labels), spec))
            self.touched.append((job, unfinished, len(spec)))
        self._add("insert_job", job_rows)
        self._add("insert_spec", spec_rows)

    def _add_altered(self, jobs: Iterable[Job]) -> None:
        rows = []
        for job in jobs:
            unfinished = is_unfinished(job)
            rows.append(life_row(job, unfinished=unfinished))
            self.touched.append((job, unfinished, None))
        self._add("update_job", rows)


@dataclass(slots=True)
class _JobCache:
    """A cache of unfinished jobs that were written recently, the least recently written first.

    Most jobs are launched and end soon after they were written, so most commands need not read them from the
    file. The cache only contains committed jobs.
    """

    _jobs: dict[JobId, tuple[Job, InstanceId | None, int]] = field(default_factory=dict)
    _instance_jobs: dict[InstanceId, JobId] = field(default_factory=dict)
    _bytes: int = 0

    def job(self, job_id: JobId) -> Job | None:
        """Return a cached job, or None."""
        entry = self._jobs.get(job_id)
        return None if entry is None else entry[0]

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job of an open instance, or None if the job is not cached."""
        job_id = self._instance_jobs.get(instance_id)
        return None if job_id is None else self._jobs[job_id][0]

    def update(self, touched: Iterable[tuple[Job, bool, int | None]]) -> None:
        """Add the jobs of a commit; drop those that are finished, and the oldest if the cache is full."""
        for job, unfinished, size in touched:
            job_id = job.spec.job_id
            known_size = self._drop(job_id) if size is None else size
            if unfinished:
                self._hold(job_id, job, _size(job) if known_size is None else known_size)
        while len(self._jobs) > MAX_CACHED_JOBS or self._bytes > MAX_CACHED_BYTES:
            self._drop(next(iter(self._jobs)))

    def _hold(self, job_id: JobId, job: Job, size: int) -> None:
        open_instance = job.open_instance
        instance_id = None if open_instance is None else open_instance.instance_id
        self._jobs[job_id] = job, instance_id, size
        self._bytes += size
        if instance_id is not None:
            self._instance_jobs[instance_id] = job_id

    def _drop(self, job_id: JobId) -> int | None:
        """Remove a job from the cache; return its size if it was cached."""
        entry = self._jobs.pop(job_id, None)
        if entry is None:
            return None
        _, instance_id, size = entry
        self._bytes -= size
        if instance_id is not None:
            del self._instance_jobs[instance_id]
        return size


def refuse_old_sqlite(version: str) -> None:
    """Refuse a version of SQLite whose write-ahead log is unsafe.

    Raises:
        SchedulerError: the version is older than 3.51.3.
    """
    if tuple(int(part) for part in version.split(".")) < MIN_SQLITE:
        needed = ".".join(map(str, MIN_SQLITE))
        raise SchedulerError(
            f"SQLite {version} can damage a store that keeps a write-ahead log; {needed} or newer is needed: "
            "pip install -U apsw"
        )


def migrate(connection: apsw.Connection, scripts: Sequence[str], path: Path) -> None:
    """Migrate the schema to the newest version, each script in its own transaction.

    Raises:
        SchedulerError: the file belongs to another program, or its schema is too new.
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
    """Return the device and inode of a file; None if there is no file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - for each transaction
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _group_row(group: Group) -> Sequence[Any]:
    return group.group_id, group.name, encode(group.host_placement), encode(group.straggler_handling)


def _opening_error(error: Exception, path: Path) -> Exception:
    """Return the error to raise when the store cannot be opened."""
    if isinstance(error, (OSError, apsw.CantOpenError)):
        return SchedulerError(f"cannot open the store {path}: {error}")
    store_error = translate_error(error, path)
    return (
        store_error
        if isinstance(store_error, CookError)
        else SchedulerError(f"cannot open the store {path}: {error}")
    )


def _size(job: Job) -> int:
    """Return the approximate size of the spec of a job that was read from the file."""
    spec = job.spec
    return 500 + len(spec.command) + sum(map(len, spec.env.values()))
