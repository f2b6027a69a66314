"""The queries of the SQLite store, and the encoding of its rows.

Lives here: opening a connection, encoding and decoding jobs as columns and JSON, the translation of SQLite's
errors, and `SqliteReader`, which has each query of `store.base.Store` as a blocking method.
Not here: writing (`store.sqlite_writer`), threads and the event loop (`store.sqlite`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

from cook_jupyter.errors import SchedulerError, StoreBusy, StoreDamaged, StoreFull
from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import Instance, InstanceId, ResultPayload
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec, JobState
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.store import sql
from cook_jupyter.store.base import LIST_PAGE_JOBS
from cook_jupyter.store.changeset import finished_instance

Synchronous = Literal["NORMAL", "FULL"]

QUERIES = sql.queries("sqlite")
# A change to a job touches about seven pages, each of which is written to the log. Half the default of 4096
# halves the amount written at the same speed; 1024 gains little more (docs/decisions/0002-store.md).
PAGE_BYTES = 2048
WRITER_CACHE_KIB = 32 * 1024
READER_CACHE_KIB = 8 * 1024
OPEN_TIMEOUT_MS = 4_000  # how long `connect` waits for a lock of another program
LIST_PAGE_BYTES = 256 * 1024
LOG_LIMIT_BYTES = 64 * 1024 * 1024  # a larger log is truncated to this size when SQLite restarts it

encode = msgspec.json.Encoder().encode
_decode_spec = msgspec.json.Decoder(JobSpec).decode
_decode_instances = msgspec.json.Decoder(tuple[Instance, ...]).decode
_decode_mapping = msgspec.json.Decoder(dict[str, Any]).decode

_STATES = {
    "waiting": JobState.WAITING,
    "running": JobState.RUNNING,
    "success": JobState.COMPLETED,
    "failed": JobState.COMPLETED,
}


def connect(
    path: Path, *, synchronous: Synchronous, read_only: bool = False, vfs: str | None = None
) -> apsw.Connection:
    """Open a connection to a store's file; create the file, accessible to its owner only, if it is missing.

    Args:
        path: the file.
        synchronous: durability of commits, as for `SqliteStore`.
        read_only: whether the connection is only used for queries.
        vfs: name of a registered SQLite VFS; None for SQLite's own.
    """
    if not read_only:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    mode = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    connection = apsw.Connection(str(path), flags=mode, vfs=vfs)
    try:
        connection.set_busy_timeout(OPEN_TIMEOUT_MS)
        _tune(connection, synchronous=synchronous, read_only=read_only)
        if read_only:
            connection.set_busy_timeout(0)  # it is used on the event loop, which must not wait
    except BaseException:
        connection.close()
        raise
    return connection


def translate_error(error: Exception, path: Path) -> Exception:
    """Translate an error of SQLite or of decoding to one of cook_jupyter; return other errors unchanged."""
    if isinstance(error, (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)):
        return StoreFull(
            f"cannot write to the store {path} ({error}); nothing was changed: "
            "make room on its disk and try again"
        )
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreBusy(
            f"the store {path} is locked by another program ({error}); nothing was changed: try again"
        )
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return damage_error(path, str(error))
    if isinstance(error, (msgspec.DecodeError, UnicodeDecodeError)):
        return StoreDamaged(
            f"a row of the store {path} cannot be read ({type(error).__name__}: {error}): restore it from a"
            " backup"
        )
    if isinstance(error, apsw.Error):
        return SchedulerError(f"the store {path} failed ({type(error).__name__}: {error})")
    return error


READ_ERRORS = (apsw.Error, msgspec.DecodeError, UnicodeDecodeError)  # translated by `translate_error`


def damage_of(connection: apsw.Connection) -> str | None:
    """Check the file page by page; return a description of the damage, or None."""
    try:
        findings = [text for (text,) in connection.execute("PRAGMA quick_check(3)") if text != "ok"]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return str(error)
    return "; ".join(findings) or None


def damage_error(path: Path, damage: str) -> StoreDamaged:
    """Return the error for a file that SQLite reports as damaged."""
    return StoreDamaged(
        f"{path} is not a store, or is damaged ({damage}): restore it from a backup, or move it away to begin"
        " a new one"
    )


def job_of_row(row: Sequence[Any]) -> Job:
    """Decode a job from a row of a query."""
    seq, outcome, submitted_ms, last_waiting_ms, max_retries, killed, change, instances, spec = row
    return Job(
        spec=_decode_spec(spec),
        seq=seq,
        state=_STATES[outcome],
        submitted_ms=submitted_ms,
        last_waiting_ms=last_waiting_ms,
        max_retries=max_retries,
        change=change,
        killed=bool(killed),
        instances=() if instances is None else _decode_instances(instances),
    )


class SqliteReader:
    """The queries of a store on one connection, for use by one thread at a time."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._ask = connection.execute

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def damage(self) -> str | None:
        """Check the file for damage; see `damage_of`."""
        return damage_of(self._connection)

    def interrupt(self) -> None:
        """Interrupt the query that another thread runs on this connection."""
        self._connection.interrupt()

    def job(self, job_id: JobId) -> Job | None:
        """Return a job, or None."""
        row = self._ask(QUERIES["job"], (job_id,)).fetchone()
        return None if row is None else job_of_row(row)

    def job_of(self, instance_id: InstanceId) -> Job | None:
        """Return the job of an instance, or None."""
        row = self._ask(QUERIES["job_of_instance"], (instance_id,)).fetchone()
        return None if row is None else job_of_row(row)

    def jobs(self, job_ids: Sequence[JobId]) -> Sequence[Job | None]:
        """Return the job with each id, or None."""
        if len(job_ids) == 1:
            return [self.job(job_ids[0])]
        jobs_by_id = {
            job.spec.job_id: job for job in map(job_of_row, self._ask(QUERIES["jobs"], (_names(job_ids),)))
        }
        return [jobs_by_id.get(i) for i in job_ids]

    def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the job of each instance, or None."""
        return [self.job_of(i) for i in instance_ids]

    def existing_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Return those of the ids that are in use."""
        if len(job_ids) == 1:
            row = self._ask(QUERIES["known_job"], job_ids).fetchone()
            return set() if row is None else {job_ids[0]}
        return {row[0] for row in self._ask(QUERIES["known_jobs"], (_names(job_ids),))}

    def has_instance(self, instance_id: InstanceId) -> bool:
        """Return whether an instance with this id exists."""
        return self._ask(QUERIES["known_instance"], (instance_id,)).fetchone() is not None

    def existing_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        """Return those of the groups that are stored."""
        return {row[0] for row in self._ask(QUERIES["known_groups"], (_names(group_ids),))}

    def unfinished_jobs(self, after_seq: int, limit: int) -> Sequence[Job]:
        """Return the next jobs that a restarted scheduler needs, by seq."""
        return [job_of_row(row) for row in self._ask(QUERIES["unfinished_jobs"], (after_seq, limit))]

    def end_of_list(self, query: JobQuery) -> tuple[int, int]:
        """Return the submission time and seq just after the newest job within the limit of a query."""
        end = (query.end_ms, 0)
        if query.limit is None:
            return end
        parameters = {**_list_parameters(query), "end_ms": query.end_ms, "skipped": query.limit - 1}
        row = self._ask(QUERIES["place_in_list"], parameters).fetchone()
        return end if row is None else (row[0], row[1] + 1)

    def list_page(self, query: JobQuery, before: tuple[int, int]) -> Sequence[Job]:
        """Return the next page of jobs that match a query, newest first, bounded in number and size.

        Args:
            query: the query, whose limit and end are ignored.
            before: submission time and seq before which the page begins.
        """
        before_ms, before_seq = before
        parameters = {**_list_parameters(query), "before_ms": before_ms, "before_seq": before_seq}
        page: list[Job] = []
        size = 0
        for row in self._ask(QUERIES["list_page"], {**parameters, "count": LIST_PAGE_JOBS}):
            page.append(job_of_row(row))
            size += sum(map(len, filter(None, row[-2:])))  # instances and spec
            if size >= LIST_PAGE_BYTES:
                break
        return page

    def changed(
        self, user: str, after: int, label: tuple[str, str] | None, limit: int
    ) -> Sequence[JobChange]:
        """Return the current state of a user's jobs that changed after a change number, in that order."""
        if label is None:
            rows = self._ask(QUERIES["changed"], (user, after, limit))
        else:
            rows = self._ask(QUERIES["changed_labelled"], (user, after, *label, limit))
        return [self._current_change(job_of_row(row)) for row in rows.fetchall()]

    def result(self, instance_id: InstanceId) -> ResultPayload | None:
        """Return the result of an instance, or None."""
        row = self._ask(QUERIES["result_of_instance"], {"instance_id": instance_id}).fetchone()
        return None if row is None else ResultPayload(inline=row[0], blob=row[1], size=row[2])

    def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return the group with each id, or None."""
        groups_by_id = {
            row[0]: Group(
                group_id=row[0],
                name=row[1],
                host_placement=_decode_mapping(row[2]),
                straggler_handling=_decode_mapping(row[3]),
            )
            for row in self._ask(QUERIES["groups"], (_names(group_ids),))
        }
        return [groups_by_id.get(i) for i in group_ids]

    def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return the jobs of a group in the order of their creation."""
        return [row[0] for row in self._ask(QUERIES["jobs_of_group"], (group_id,))]

    def limits(self) -> Sequence[LimitEntry]:
        """Return every stored limit, by kind, user, pool and name."""
        return [
            LimitEntry(kind=kind, user=user, pool=pool, name=name, amount=amount, reason=reason)
            for kind, user, pool, name, amount, reason in self._ask(QUERIES["limits"])
        ]

    def text(self, key: str) -> str | None:
        """Return the text stored under a key, or None."""
        row = self._ask(QUERIES["text"], (key,)).fetchone()
        return None if row is None else str(row[0])

    def last_numbers(self) -> tuple[int, int]:
        """Return the highest seq and the highest change number.

        They are read from the jobs, so no commit has to store them separately.
        """
        ((seq,),) = self._ask(QUERIES["last_seq"])
        ((change,),) = self._ask(QUERIES["last_change"])
        return seq, change

    def _current_change(self, job: Job) -> JobChange:
        """Return the current state of a job as a change, with its result if it is completed."""
        finished = finished_instance(job)
        result = self.result(finished.instance_id) if finished is not None and finished.has_result else None
        return JobChange(before=None, job=job, instance=finished, result=result)


def job_row(job: Job, *, unfinished: bool) -> tuple[Any, ...]:
    """Encode a new job as a row of its table."""
    spec = job.spec
    return (
        job.seq,
        spec.job_id,
        spec.user,
        spec.name,
        spec.pool,
        spec.submit_pool,
        spec.group,
        job.outcome,
        unfinished,
        job.submitted_ms,
        job.last_waiting_ms,
        job.max_retries,
        job.killed,
        job.change,
        encode(job.instances) if job.instances else None,
    )


def life_row(job: Job, *, unfinished: bool) -> tuple[Any, ...]:
    """Encode the columns of a job that may change, and its seq, for an update."""
    return (
        job.outcome,
        unfinished,
        job.last_waiting_ms,
        job.max_retries,
        job.killed,
        job.change,
        encode(job.instances) if job.instances else None,
        job.seq,
    )


def labels_text(labels: Mapping[str, str]) -> str | None:
    """Encode labels as JSON; None if there are none."""
    return encode(labels).decode() if labels else None


def _tune(connection: apsw.Connection, *, synchronous: Synchronous, read_only: bool) -> None:
    for pragma in _pragmas(synchronous=synchronous, read_only=read_only):
        connection.execute(f"PRAGMA {pragma}")
    if not read_only:
        ((mode,),) = connection.execute("PRAGMA journal_mode = WAL")
        if mode != "wal":
            raise SchedulerError(
                f"{connection.filename} lies on a file system where SQLite cannot keep a write-ahead log; "
                "put the store on a local disk"
            )


def _pragmas(*, synchronous: Synchronous, read_only: bool) -> Iterator[str]:
    yield "mmap_size = 0"  # with mmap a stray write damages the file, and an I/O error is a signal
    yield "trusted_schema = OFF"
    yield f"cache_size = -{READER_CACHE_KIB if read_only else WRITER_CACHE_KIB}"
    if not read_only:
        yield f"page_size = {PAGE_BYTES}"
        yield f"synchronous = {synchronous}"
        yield "wal_autocheckpoint = 0"  # the store starts checkpoints itself
        yield f"journal_size_limit = {LOG_LIMIT_BYTES}"
        if synchronous == "FULL":  # on macOS a plain fsync does not reach the disk
            yield "fullfsync = ON"
            yield "checkpoint_fullfsync = ON"


def _list_parameters(query: JobQuery) -> dict[str, Any]:
    return {
        "user": query.user,
        "start_ms": query.start_ms,
        "outcomes": _names(sorted(query.outcomes)),
        "glob": None if query.name_glob is None else _glob(query.name_glob),
        "pool": query.pool,
    }


def _names(names: Sequence[str]) -> str:
    """Encode names as a JSON list for json_each."""
    return encode(names).decode()


def _glob(pattern: str) -> str:
    """Convert a name pattern, in which only `*` is special, to a pattern for SQLite's GLOB."""
    return pattern.replace("[", "[[]").replace("?", "[?]")
