"""Rows of the SQLite store as values, and the questions that are asked of them.

Lives here: how a connection to the file is opened, how a job is written as columns and JSON and
read back, and `Rows`, every question of `store.base.Store` as a plain call on one connection.
Not here: writing (`store.sqlite_book`), threads and the event loop (`store.sqlite`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

from cook_jupyter.errors import SchedulerError, StoreBusy, StoreDamaged, StoreFull
from cook_jupyter.model.changes import JobChange, JobQuery
from cook_jupyter.model.instance import Instance, InstanceId, Result
from cook_jupyter.model.job import Group, GroupId, Job, JobId, JobSpec, JobState
from cook_jupyter.model.limits import LimitEntry
from cook_jupyter.store import sql
from cook_jupyter.store.base import LIST_PAGE_JOBS
from cook_jupyter.store.draft import finished_instance

Synchronous = Literal["NORMAL", "FULL"]

QUERIES = sql.queries("sqlite")
# A change to a job touches some seven pages, each of which goes whole to the log. Half the usual 4096 halves
# what is written at the same speed; 1024 gains little more (docs/decisions/0002-store.md).
PAGE_BYTES = 2048
WRITER_CACHE_KIB = 32 * 1024
READER_CACHE_KIB = 8 * 1024
OPEN_TIMEOUT_MS = 4_000  # how long opening waits for another program that locks the file
LIST_PAGE_BYTES = 256 * 1024
LOG_LIMIT_BYTES = 64 * 1024 * 1024  # a log that once grew past this is cut back when it starts anew

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
    """Open a connection to the store's file, which is made, for its owner alone, if it is not there.

    Args:
        path: the file.
        synchronous: how far a commit must have come on its way to the disk.
        read_only: for questions alone.
        vfs: the name of a registered SQLite VFS to reach the disk by; None is SQLite's own.
    """
    if not read_only:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    mode = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    connection = apsw.Connection(str(path), flags=mode, vfs=vfs)
    try:
        connection.set_busy_timeout(OPEN_TIMEOUT_MS)
        _tune(connection, synchronous=synchronous, read_only=read_only)
        if read_only:
            connection.set_busy_timeout(0)  # it is asked on the event loop, which must not wait
    except BaseException:
        connection.close()
        raise
    return connection


def said_of(error: Exception, path: Path) -> Exception:
    """Return what the store says of an error of SQLite's; other errors speak for themselves."""
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
        return damaged(path, str(error))
    if isinstance(error, (msgspec.DecodeError, UnicodeDecodeError)):
        return StoreDamaged(
            f"a row of the store {path} cannot be read ({type(error).__name__}: {error}): restore it from a"
            " backup"
        )
    if isinstance(error, apsw.Error):
        return SchedulerError(f"the store {path} failed ({type(error).__name__}: {error})")
    return error


READ_ERRORS = (apsw.Error, msgspec.DecodeError, UnicodeDecodeError)  # that `said_of` explains


def damage_of(connection: apsw.Connection) -> str | None:
    """Return what SQLite finds wrong with the file, page by page; None if it finds nothing."""
    try:
        findings = [text for (text,) in connection.execute("PRAGMA quick_check(3)") if text != "ok"]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return str(error)
    return "; ".join(findings) or None


def damaged(path: Path, damage: str) -> StoreDamaged:
    """The error about a file in which SQLite finds damage."""
    return StoreDamaged(
        f"{path} is no store, or is damaged ({damage}): restore it from a backup, or move it away to begin a"
        " new one"
    )


def job_of_row(row: Sequence[Any]) -> Job:
    """Return the job that a row of the queries tells."""
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


class Rows:
    """Questions to one connection; for one thread at a time."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._ask = connection.execute

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def damage(self) -> str | None:
        """Return what SQLite finds wrong with the file; see `damage_of`."""
        return damage_of(self._connection)

    def interrupt(self) -> None:
        """Break off what another thread asks."""
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
        """Return jobs in the order asked."""
        if len(job_ids) == 1:
            return [self.job(job_ids[0])]
        found = {
            job.spec.job_id: job for job in map(job_of_row, self._ask(QUERIES["jobs"], (_names(job_ids),)))
        }
        return [found.get(i) for i in job_ids]

    def jobs_of_instances(self, instance_ids: Sequence[InstanceId]) -> Sequence[Job | None]:
        """Return the jobs of instances in the order asked."""
        return [self.job_of(i) for i in instance_ids]

    def known_jobs(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Return those of the ids that are in use."""
        if len(job_ids) == 1:
            known = self._ask(QUERIES["known_job"], job_ids).fetchone()
            return set() if known is None else {job_ids[0]}
        return {row[0] for row in self._ask(QUERIES["known_jobs"], (_names(job_ids),))}

    def knows_instance(self, instance_id: InstanceId) -> bool:
        """Tell whether the id is in use."""
        return self._ask(QUERIES["known_instance"], (instance_id,)).fetchone() is not None

    def known_groups(self, group_ids: Sequence[GroupId]) -> set[GroupId]:
        """Return those of the groups that are stored."""
        return {row[0] for row in self._ask(QUERIES["known_groups"], (_names(group_ids),))}

    def unfinished_jobs(self, after_seq: int, limit: int) -> Sequence[Job]:
        """Return the next jobs that a restart needs, by seq."""
        return [job_of_row(row) for row in self._ask(QUERIES["unfinished_jobs"], (after_seq, limit))]

    def end_of_list(self, query: JobQuery) -> tuple[int, int]:
        """Return submission time and seq just after the newest job that the limit of a query lets in."""
        end = (query.end_ms, 0)
        if query.limit is None:
            return end
        wanted = {**_list_parameters(query), "end_ms": query.end_ms, "skipped": query.limit - 1}
        row = self._ask(QUERIES["place_in_list"], wanted).fetchone()
        return end if row is None else (row[0], row[1] + 1)

    def list_page(self, query: JobQuery, before: tuple[int, int]) -> Sequence[Job]:
        """Return the next jobs that match, newest first, until they are many or large.

        Args:
            query: the query, of which `before` stands for limit and end.
            before: submission time and seq that the jobs lie before.
        """
        before_ms, before_seq = before
        wanted = {**_list_parameters(query), "before_ms": before_ms, "before_seq": before_seq}
        page: list[Job] = []
        size = 0
        for row in self._ask(QUERIES["list_page"], {**wanted, "count": LIST_PAGE_JOBS}):
            page.append(job_of_row(row))
            size += sum(map(len, filter(None, row[-2:])))  # instances and spec
            if size >= LIST_PAGE_BYTES:
                break
        return page

    def changed(
        self, user: str, after: int, label: tuple[str, str] | None, limit: int
    ) -> Sequence[JobChange]:
        """Return the user's jobs above a change number, in the order of change."""
        if label is None:
            rows = self._ask(QUERIES["changed"], (user, after, limit))
        else:
            rows = self._ask(QUERIES["changed_labelled"], (user, after, *label, limit))
        return [self._told(job_of_row(row)) for row in rows.fetchall()]

    def result(self, instance_id: InstanceId) -> Result | None:
        """Return what an instance gave back, or None."""
        row = self._ask(QUERIES["result_of_instance"], {"instance_id": instance_id}).fetchone()
        return None if row is None else Result(inline=row[0], blob=row[1], size=row[2])

    def groups(self, group_ids: Sequence[GroupId]) -> Sequence[Group | None]:
        """Return groups in the order asked."""
        found = {
            row[0]: Group(
                group_id=row[0],
                name=row[1],
                host_placement=_decode_mapping(row[2]),
                straggler_handling=_decode_mapping(row[3]),
            )
            for row in self._ask(QUERIES["groups"], (_names(group_ids),))
        }
        return [found.get(i) for i in group_ids]

    def jobs_of_group(self, group_id: GroupId) -> Sequence[JobId]:
        """Return a group's jobs in the order of their creation."""
        return [row[0] for row in self._ask(QUERIES["jobs_of_group"], (group_id,))]

    def limits(self) -> Sequence[LimitEntry]:
        """Return every stored limit, by kind, user, pool and name."""
        return [
            LimitEntry(kind=kind, user=user, pool=pool, name=name, amount=amount, reason=reason)
            for kind, user, pool, name, amount, reason in self._ask(QUERIES["limits"])
        ]

    def text(self, key: str) -> str | None:
        """Return the text under a key, or None."""
        row = self._ask(QUERIES["text"], (key,)).fetchone()
        return None if row is None else str(row[0])

    def last_numbers(self) -> tuple[int, int]:
        """Return the highest seq and change given out.

        Jobs carry them, so that no commit has to write them a second time.
        """
        ((seq,),) = self._ask(QUERIES["last_seq"])
        ((change,),) = self._ask(QUERIES["last_change"])
        return seq, change

    def _told(self, job: Job) -> JobChange:
        """Where a job stands now, with what came back if it is completed."""
        last = finished_instance(job)
        result = self.result(last.instance_id) if last is not None and last.has_result else None
        return JobChange(before=None, job=job, instance=last, result=result)


def job_row(job: Job, *, unfinished: bool) -> tuple[Any, ...]:
    """Return a new job as the row of its table."""
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
    """Return what may change of a job, and its seq, for an update."""
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
    """Return labels as the JSON that searches read."""
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
    yield "mmap_size = 0"  # through a map a stray write damages the file, and an I/O error is a signal
    yield "trusted_schema = OFF"
    yield f"cache_size = -{READER_CACHE_KIB if read_only else WRITER_CACHE_KIB}"
    if not read_only:
        yield f"page_size = {PAGE_BYTES}"
        yield f"synchronous = {synchronous}"
        yield "wal_autocheckpoint = 0"  # the book says when
        yield f"journal_size_limit = {LOG_LIMIT_BYTES}"
        if synchronous == "FULL":  # on macOS only this reaches the platter
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
    """Names as the JSON list that json_each reads."""
    return encode(names).decode()


def _glob(pattern: str) -> str:
    """A name pattern, in which only `*` is special, as SQLite's GLOB wants it."""
    return pattern.replace("[", "[[]").replace("?", "[?]")
