"""`JobClient`: a scheduler's verbs as methods.

Lives here: a thin shell that sends what `client.protocol` writes over `client.connections`. All methods
may be called from any thread; all have a deadline.
Not here: finding a scheduler (`client.connect`), calls and futures (`executor`).
"""

import base64
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypeVar
from uuid import uuid4

from msgspec.structs import replace

from cook_jupyter.client import protocol
from cook_jupyter.client.answers import (
    CookInfo,
    FailureReason,
    GroupAnswer,
    InstanceAnswer,
    JobAnswer,
    MonitorAnswer,
    PoolAnswer,
    QueueEntry,
    QuotaAnswer,
    RebalancerAnswer,
    SchedulerInfo,
    ShareAnswer,
    SummaryAnswer,
    UnscheduledAnswer,
    UsageAnswer,
    WaitsAnswer,
    WhyAnswer,
)
from cook_jupyter.client.connections import Address, ConnectionPool
from cook_jupyter.client.events import EventStream
from cook_jupyter.client.protocol import ALL_STATES, Ask, LogPiece, Request
from cook_jupyter.client.submission import GroupSubmission, JobSubmission
from cook_jupyter.errors import Conflict, InvalidRequest, NotFound
from cook_jupyter.wire.users import process_user, require_user_name

T = TypeVar("T")

TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
_FAR_AHEAD_MS = 2**53
_DAY_MS = 24 * 60 * 60 * 1000
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 40, 1000


class JobClient:
    """Asks a scheduler: ours, or an original Cook for all that is not under `/v1`.

    Args:
        url: `http://HOST:PORT`, `https://...` or `unix:///PATH`.
        token: what the scheduler knows its user by; None where it needs none.
        user: act as this user. With a token, the scheduler must allow it.
        timeout_s: how long an answer may take.
        socket_path: a Unix socket on which the scheduler of an http URL listens as well; it is tried first.

    Raises:
        InvalidRequest: no request can carry the user name (it contains a colon, say) or the token.

    Every method raises `SchedulerUnreachable` when no answer comes, `Unauthenticated` and `Forbidden`
    for want of rights, and else the very class of `cook_jupyter.errors` that the scheduler raised.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        user: str | None = None,
        timeout_s: float = TIMEOUT_S,
        socket_path: str | None = None,
    ) -> None:
        self._token = token
        self._acts = user is not None
        self.timeout_s = timeout_s
        # Without a token the name is all there is; with one alone, the scheduler knows whose it is.
        self._asking = user or (process_user() if token is None else None)
        self._socket_path = socket_path
        address = Address.of(url, socket_path)
        self._pool = ConnectionPool(address, authorization(token, user), CONNECT_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"JobClient({self.url!r}, user={self._asking!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the scheduler is."""
        return self._pool.address.url

    @property
    def user(self) -> str:
        """Whose jobs these are: the name acted as, else the one the scheduler knows the token by."""
        if self._asking is None:
            self.info_v1()
        return self._asking or ""

    def acting_as(self, user: str) -> "JobClient":
        """Another client of the same scheduler, acting as another user."""
        return self._derived(user, self.timeout_s)

    def patient_for(self, timeout_s: float) -> "JobClient":
        """Another client of the same scheduler for the same user, with another deadline."""
        return self._derived(self._asking if self._token is None or self._acts else None, timeout_s)

    def close(self) -> None:
        """Close the connections. The client can be used again; it opens new ones."""
        self._pool.close()

    # --- jobs ---

    def submit(
        self,
        jobs: Iterable[Mapping[str, object] | JobSubmission],
        groups: Sequence[Mapping[str, object] | GroupSubmission] = (),
        *,
        pool: str | None = None,
        override_group_immutability: bool = False,
    ) -> list[str]:
        """Submit jobs; when this returns, they are on the scheduler's disk.

        A uuid is made for each job that has none; it is what makes sending again harmless. Of a list that is
        too large for one request, each part is accepted or refused as a whole.

        Args:
            jobs: submissions; a mapping has Cook's field names (`command`, `cpus`, `mem` in MiB ...).
            groups: the groups they name.
            pool: where to; None means the scheduler's default.
            override_group_immutability: let jobs join groups of earlier submissions.

        Returns:
            The uuids, in order.

        Raises:
            InvalidRequest: a job is not one; nothing of its part was accepted.
            QuotaExceeded: a quota or a queue limit is in the way.
            Conflict: a uuid is in use.
        """
        named = [_with_uuid(job) for job in jobs]
        ask = protocol.submit(
            named, groups, pool=pool, override_group_immutability=override_group_immutability
        )
        for request in ask.requests:
            self._submit_part(request, ask.read(()))
        return ask.read(())

    def jobs(self, uuids: Sequence[str], *, partial: bool = False) -> list[JobAnswer]:
        """The jobs with these uuids, in this order. With `partial`, unknown ones are left out.

        Raises:
            NotFound: a uuid is unknown (without `partial`); `missing` names them.
        """
        return self._ask(protocol.jobs(uuids, partial=partial))

    def job(self, uuid: str) -> JobAnswer:
        """One job."""
        return self._ask(protocol.job(uuid))

    def instances(self, uuids: Sequence[str], *, partial: bool = False) -> list[InstanceAnswer]:
        """The instances with these uuids, each with a short form of its job."""
        return self._ask(protocol.instances(uuids, partial=partial))

    def list_jobs(
        self,
        *,
        user: str | None = None,
        states: Sequence[str] = ALL_STATES,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 150,
        name: str | None = None,
        pool: str | None = None,
    ) -> list[JobAnswer]:
        """The jobs of a user (None: one's own) submitted in a stretch of time, newest first.

        Args:
            user: whose.
            states: any of waiting, running, completed, success, failed.
            start_ms: from then on (epoch milliseconds); None means the last 24 hours.
            end_ms: up to before then; None means no end.
            limit: if there are more, Cook gives the *oldest* so many: see `recent_jobs`.
            name: the whole name, with `*` for any run of letters.
            pool: only of this one.
        """
        # The scheduler's clock need not be this one: what was submitted last must not seem to lie ahead.
        end = _FAR_AHEAD_MS if end_ms is None else end_ms
        start = min(end, _now_ms()) - _DAY_MS if start_ms is None else start_ms
        return self._ask(
            protocol.list_jobs(
                user=user or self.user,
                states=states,
                start_ms=start,
                end_ms=end,
                limit=limit,
                name=name,
                pool=pool,
            )
        )

    def recent_jobs(
        self,
        count: int = 20,
        *,
        user: str | None = None,
        states: Sequence[str] = ALL_STATES,
        name: str | None = None,
        since_ms: int | None = None,
    ) -> list[JobAnswer]:
        """The last `count` jobs submitted, newest first.

        Cook's listing gives the oldest jobs of a range; so ever longer stretches before now are asked for,
        until one holds enough.

        Args:
            count: at most so many.
            user: whose; None means one's own.
            states: any of waiting, running, completed, success, failed.
            name: as in `list_jobs`.
            since_ms: none older than this; None means 7 days.
        """
        end = max(_now_ms(), self._scheduler_now_ms()) + 60_000
        oldest = end - 7 * _DAY_MS if since_ms is None else since_ms
        found: list[JobAnswer] = []
        span, upto = 5 * 60_000, end
        at_once = min(
            _MOST_AT_ONCE, max(_FEWEST_AT_ONCE, 2 * count)
        )  # a job's JSON may be large: its call is in it
        while len(found) < count and upto > oldest:
            start = max(oldest, upto - span)
            page = self.list_jobs(
                user=user, states=states, start_ms=start, end_ms=upto, limit=at_once, name=name
            )
            if len(page) >= at_once and upto - start > 1:  # its newest are missing: look closer
                span = max(1, (upto - start) // 8)
                continue
            found += page
            upto, span = start, span * 8
        return found[:count]

    def kill(self, uuids: Sequence[str]) -> None:
        """Kill jobs: they are completed at once, and what runs of them is stopped.

        Raises:
            NotFound: a uuid is unknown.
            Forbidden: a job is someone else's; nothing was killed.
        """
        self._ask(protocol.kill(uuids))

    def cancel_waiting(self, uuids: Sequence[str]) -> list[str]:
        """Cancel those of the jobs that wait, and return which they are; what runs goes on.

        Raises:
            NotFound: a uuid is unknown, or the scheduler is an original Cook, which cannot do this.
            Forbidden: a job is someone else's; nothing was cancelled.
        """
        return self._ask(protocol.cancel_waiting(uuids))

    def kill_instances(self, uuids: Sequence[str]) -> None:
        """Kill instances; their jobs try again if they may."""
        self._ask(protocol.kill_instances(uuids))

    def kill_groups(self, uuids: Sequence[str]) -> None:
        """Kill all unfinished jobs of groups."""
        self._ask(protocol.kill_groups(uuids))

    def retry(
        self,
        uuids: str | Sequence[str],
        *,
        retries: int | None = None,
        increment: int | None = None,
        failed_only: bool = False,
    ) -> int:
        """Give jobs more attempts: a new total (`retries`) or so many more (`increment`).

        Returns:
            The total of the first job touched; 0 if `failed_only` left none.
        """
        asked = [uuids] if isinstance(uuids, str) else uuids
        return self._ask(protocol.retry(asked, retries=retries, increment=increment, failed_only=failed_only))

    def groups(
        self, uuids: Sequence[str], *, detailed: bool = False, partial: bool = False
    ) -> list[GroupAnswer]:
        """Groups; `detailed` adds how many of their jobs wait, run and are completed."""
        return self._ask(protocol.groups(uuids, detailed=detailed, partial=partial))

    # --- limits, pools, the scheduler itself ---

    def usage(
        self, user: str | None = None, *, pool: str | None = None, group_breakdown: bool = False
    ) -> UsageAnswer:
        """What the running jobs of a user (None: one's own) hold."""
        return self._ask(protocol.usage(user or self.user, pool=pool, group_breakdown=group_breakdown))

    def share(self, user: str | None = None, *, pool: str | None = None) -> ShareAnswer:
        """What a user is entitled to."""
        return self._ask(protocol.share(user or self.user, pool=pool))

    def set_share(self, user: str, *, reason: str, pool: str | None = None, **values: float) -> ShareAnswer:
        """Set a user's share (`cpus`, `mem`, `gpus`); what is not named stays. For administrators."""
        return self._ask(protocol.set_share(user, values, reason=reason, pool=pool))

    def reset_share(self, user: str, *, reason: str, pool: str | None = None) -> None:
        """Give a user the default share again."""
        self._ask(protocol.reset_limit("share", user, reason=reason, pool=pool))

    def quota(self, user: str | None = None, *, pool: str | None = None) -> QuotaAnswer:
        """What a user may never exceed."""
        return self._ask(protocol.quota(user or self.user, pool=pool))

    def set_quota(self, user: str, *, reason: str, pool: str | None = None, **values: float) -> QuotaAnswer:
        """Set a user's quota (`cpus`, `mem`, `gpus`, `count`); what is not named stays."""
        return self._ask(protocol.set_quota(user, values, reason=reason, pool=pool))

    def reset_quota(self, user: str, *, reason: str, pool: str | None = None) -> None:
        """Give a user the default quota again."""
        self._ask(protocol.reset_limit("quota", user, reason=reason, pool=pool))

    def pools(self) -> list[PoolAnswer]:
        """The pools."""
        return self._ask(protocol.get_json("/pools", list[PoolAnswer]))

    def queue(self, *, limit: int | None = None) -> dict[str, list[QueueEntry]]:
        """Waiting jobs in the order in which they would start, by pool. For administrators."""
        return self._ask(protocol.get_json("/queue", dict[str, list[QueueEntry]], limit=_text(limit)))

    def running(self, *, limit: int | None = None) -> list[InstanceAnswer]:
        """Instances that run, everybody's. For administrators."""
        return self._ask(protocol.get_json("/running", list[InstanceAnswer], limit=_text(limit)))

    def unscheduled(self, uuids: Sequence[str], *, partial: bool = False) -> list[UnscheduledAnswer]:
        """Cook's reasons why each of these jobs waits."""
        return self._ask(protocol.unscheduled(uuids, partial=partial))

    def info(self) -> CookInfo:
        """Which scheduler this is, in Cook's words."""
        return self._ask(protocol.get_json("/info", CookInfo))

    def settings(self) -> dict[str, object]:
        """The scheduler's settings."""
        return self._ask(protocol.get_json("/settings", dict[str, object]))

    def failure_reasons(self) -> list[FailureReason]:
        """The table of reasons."""
        return self._ask(protocol.get_json("/failure_reasons", list[FailureReason]))

    # --- ours, under /v1 ---

    def info_v1(self) -> SchedulerInfo:
        """Who asks, where blobs rest, what the hosts have, how large things may be."""
        info = self._ask(protocol.get_json("/v1/info", SchedulerInfo))
        self._asking = self._asking or info.user
        return info

    def summary(self) -> SummaryAnswer:
        """Who waits and who runs, beside capacity and shares."""
        return self._ask(protocol.get_json("/v1/summary", SummaryAnswer))

    def monitor(self) -> MonitorAnswer:
        """Who was starved, hungry, satisfied when the scheduler looked last, by pool, with amounts."""
        return self._ask(protocol.get_json("/v1/monitor", MonitorAnswer))

    def rebalancer(self) -> RebalancerAnswer:
        """How running tasks give way: the parameters in force."""
        return self._ask(protocol.get_json("/v1/rebalancer", RebalancerAnswer))

    def set_rebalancer(self, **parameters: float | None) -> RebalancerAnswer:
        """Set `safe_dru_threshold`, `min_dru_diff` or `max_preemption`, from now on. For administrators.

        None switches preemption off; what is not named stays. Returns the parameters in force.
        """
        return self._ask(protocol.set_rebalancer(parameters))

    def events(
        self,
        cursor: int | None = None,
        label: Mapping[str, str] | None = None,
        *,
        store: str | None = None,
    ) -> EventStream:
        """What happens to one's jobs: first what has changed after `cursor`, then live.

        Args:
            cursor: of an earlier batch; None means from now.
            label: only jobs that carry these labels.
            store: the store that the cursor is of (`EventBatch.store`). If the scheduler has another one by
                now, the stream begins with the present, and its first batch names the new store.

        Returns:
            An iterator over batches, on a connection of its own; close it when done. It ends with
            SchedulerUnreachable when the connection breaks: `client.events.follow` comes back.
        """
        return EventStream(self._pool, cursor, label or {}, store=store, timeout_s=self.timeout_s)

    def result(self, uuid: str) -> bytes:
        """The signed bytes that a job gave back.

        Raises:
            NotFound: no such job, or it gave back nothing.
            Conflict: it is not completed.
        """
        return self._ask(protocol.result(uuid))

    def logs(
        self,
        uuid: str,
        *,
        stream: str = "stdout",
        offset: int = 0,
        length: int = 1024 * 1024,
        wait_s: float = 0.0,
    ) -> LogPiece:
        """What an instance (or a job's latest one) wrote, from `offset` on; see `LogPiece`.

        Args:
            uuid: of an instance or a job.
            stream: "stdout" or "stderr".
            offset: in bytes.
            length: at most so many bytes.
            wait_s: wait so long for something to be there, at most 20.
        """
        return self._ask(protocol.logs(uuid, stream=stream, offset=offset, length=length, wait_s=wait_s))

    def why(self, uuid: str) -> WhyAnswer:
        """Why a job waits: in plain sentences, and Cook's reasons."""
        return self._ask(protocol.why(uuid))

    def report_waits(self, instance: str, uuids: Sequence[str]) -> WaitsAnswer:
        """Report what a running instance waits for, without a time limit; no jobs if it goes on."""
        return self._ask(protocol.report_waits(instance, uuids))

    def put_blob(self, name: str, data: bytes | memoryview) -> None:
        """Store bytes under a name; functions must match their hash."""
        self._ask(protocol.put_blob(name, data))

    def get_blob(self, name: str) -> bytes:
        """The bytes of a blob."""
        return self._ask(protocol.get_blob(name))

    def blob_size(self, name: str) -> int | None:
        """The size of a blob in bytes; None if it is not there."""
        return self._ask(protocol.blob_size(name))

    def has_blob(self, name: str) -> bool:
        """Whether there is such a blob."""
        return self.blob_size(name) is not None

    def shutdown(self, *, stop_agent: bool = False) -> None:
        """End the embedded scheduler. What runs goes on, unless `stop_agent`."""
        self._ask(protocol.shutdown(stop_agent=stop_agent))

    # --- how ---

    def _derived(self, user: str | None, timeout_s: float) -> "JobClient":
        return JobClient(
            self.url, token=self._token, user=user, timeout_s=timeout_s, socket_path=self._socket_path
        )

    def _scheduler_now_ms(self) -> int:
        """The time by the scheduler's clock, which need not be this one; 0 if it does not tell."""
        try:
            return self.info_v1().time_ms
        except NotFound:  # an original Cook
            return 0

    def _ask(self, ask: Ask[T]) -> T:
        replies = []
        for request in ask.requests:
            reply, _ = self._pool.exchange(request, self.timeout_s)
            if reply.status >= 400 and reply.status not in ask.tolerated:
                raise protocol.error_of(reply)
            replies.append(reply)
        return ask.read(replies)

    def _submit_part(self, request: Request, uuids: Sequence[str]) -> None:
        """Send one submission. Had it to be sent twice, a conflict may mean that the first was taken."""
        reply, sent_twice = self._pool.exchange(request, self.timeout_s)
        if reply.status < 400:
            return
        error = protocol.error_of(reply)
        if sent_twice and isinstance(error, Conflict) and reply.status == 409:
            sent = protocol.submitted_uuids(request)
            if len(self.jobs(sent, partial=True)) == len(set(sent)):
                return
        raise error


def authorization(token: str | None, user: str | None) -> str:
    """Return the header `Authorization`.

    Raises:
        InvalidRequest: no header can carry the token or the name.
    """
    if token is not None and not (token.isascii() and token.isprintable()):
        raise InvalidRequest(
            "the token contains a control character or a letter beyond ASCII: no header can carry it"
        )
    if token is not None and user is None:
        return f"Bearer {token}"
    pair = f"{process_user() if user is None else require_user_name(user)}:{token or ''}"
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


def _with_uuid(job: Mapping[str, object] | JobSubmission) -> Mapping[str, object] | JobSubmission:
    """Return the job with a uuid of its own, if it has none."""
    if isinstance(job, JobSubmission):
        return job if job.uuid else replace(job, uuid=str(uuid4()))
    return job if job.get("uuid") else {**job, "uuid": str(uuid4())}


def _now_ms() -> int:
    return int(time.time() * 1000)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
