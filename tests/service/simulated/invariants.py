"""What must hold of a scheduler whatever happens, checked as it happens.

Lives here: `Invariants`. Each commit is checked when it is made, each effect on a host when the host sees
it, each answer when its user has it. The scheduler's views are compared with the store after every commit,
and all of them every few seconds. The model is independent: it computes attempts, usages, quotas by itself.
Not here: what happens (`users`, `faults`).

Checked, by the numbers of the reliability specification:

- I1: an acknowledged submission is stored, with the content that was sent (in the pool that the settings move
  it to), for ever; a uuid that was sent twice is stored once.
- I2: jobs move along the allowed edges; a completed job moves by a retry only; change numbers grow.
- I3: what a finished instance says of its end never changes.
- I4: a job has at most one open instance, and no host starts a task while another task of the job runs,
  unless the other one's instance is finished in the store (lost, preempted or stopped, and being killed).
- I5: attempts recomputed from the reasons; a job is completed if and only if it succeeded, was killed or has
  no attempt left.
- I6: no instance of a killed job starts, and once the last fault has healed the killed tasks end in time.
- I7: tasks fit their host; an instance is launched as it was committed, on the host that it names.
- I8: no launch takes its user or pool over a quota. A quota that is being changed counts as the larger value
  until its user has the answer.
- I10: attributes, unique groups, hosts of earlier failures, tasks per host.
- I12: once a report was acknowledged to the cluster, the store holds its effect, results included.
- I13: in the end hosts run what the store holds open, nothing else.
- I14: in the end queues, kills, reservations, requests and timers are back where they began.
- I15: in the end every job is completed, in bounded time, and no simulation stands still.
- I16: all of these in seeds in which hosts' clocks are set, and the scheduler's between two of its lives.
- I19: the usage that decisions are made by is the sum over the store's open instances.
- views: each view of the scheduler agrees with the store; no loop died, no listener and no request failed
  unexpectedly.
- events: a user's event stream tells changes in order, and in the end all of them.

Not checked: I9 (fairness is promised after two undisturbed cycles: `tests/service/test_invariants.py`), I11
(one scheduler at a time exists here; a dead one's connections refuse it), I17 (`tests/api`), I18 (nothing
takes hosts out of service by itself yet), I20 (a run is compared with another of its seed:
`test_determinism.py`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from typing import Final

from cook_jupyter.clusters.base import Launch
from cook_jupyter.model.changes import JobChange
from cook_jupyter.model.instance import Instance, InstanceId, InstanceStatus, StatusUpdate, TaskState
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import NEVER_COUNTS, REASONS
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.store.memory import _MemoryState
from tests.service.simulated.scenario import HostPlan, Scenario

EPSILON: Final = 1e-6
QUOTA_NAMES: Final = ("count", "cpus", "mem", "gpus")

EDGES: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.WAITING: frozenset({JobState.WAITING, JobState.RUNNING, JobState.COMPLETED}),
    JobState.RUNNING: frozenset(JobState),
    JobState.COMPLETED: frozenset({JobState.COMPLETED}),
}
FINAL_FIELDS: Final = ("status", "reason", "ended_ms", "exit_code", "host", "preempted", "has_result")

Place = tuple[str, PoolName]  # user, pool
Allowance = dict[Place, dict[str, float]]


class Invariants:
    """The invariants of one simulation.

    Attributes:
        counts: number of checks, by invariant.
        overlaps: number of tasks that started while an earlier one of their job was still being killed.
        violation: the first check that failed.
        scheduler: the scheduler that runs now.
        known_hosts: names of the hosts that the scheduler's clusters say there are.
    """

    def __init__(self, scenario: Scenario, state: _MemoryState) -> None:
        self._scenario = scenario
        self._settings: Settings = scenario.settings
        self._hosts: Mapping[str, HostPlan] = {host.name: host for host in scenario.hosts}
        self._state = state
        self._jobs: dict[JobId, Job] = {}
        self._change = 0
        self._sent: dict[JobId, JobSpec] = {}
        self._acknowledged: set[JobId] = set()
        self._killed: set[JobId] = set()
        self._lowered: set[JobId] = set()  # retries set to the attempts that are used up already
        self._repeated: set[JobId] = set()  # retried though they had succeeded
        self._quotas: dict[
            tuple[str, PoolName, str], set[float | None]
        ] = {}  # user, pool, name -> values in force
        self._running: dict[JobId, dict[InstanceId, str]] = defaultdict(dict)  # on hosts, as hosts see it
        self._started: set[tuple[str, InstanceId]] = set()
        self.counts: Counter[str] = Counter()
        self.overlaps = 0
        self.violation: str | None = None
        self.scheduler: Scheduler | None = None
        self.known_hosts: frozenset[str] = frozenset()
        self._hosts_at_decision: frozenset[str] = frozenset()

    def check(self, name: str, holds: object, *details: object) -> None:
        """Count one check of an invariant, and keep the first that fails."""
        self.counts[name] += 1
        if not holds and self.violation is None:
            self.violation = f"{name}: {' '.join(map(str, details))}"

    # --- requests of users

    def submitting(self, specs: Iterable[JobSpec]) -> None:
        """Note jobs that a user is about to send."""
        self._sent.update((spec.job_id, spec) for spec in specs)

    def submitted(self, specs: Iterable[JobSpec]) -> None:
        """Check jobs whose submission was acknowledged."""
        for spec in specs:
            job = self._state.job(spec.job_id)
            self.check("I1", job is not None, "acknowledged and not stored:", spec.job_id)
            self._acknowledged.add(spec.job_id)

    def killed(self, job_ids: Iterable[JobId]) -> None:
        """Check jobs whose kill was acknowledged."""
        for job_id in job_ids:
            job = self._state.jobs[job_id]
            self.check("I6", job.state is JobState.COMPLETED, "killed and not completed:", job_id)
            self._killed.add(job_id)

    def retrying(self, job_ids: Iterable[JobId]) -> None:
        """Note jobs for which a user is about to ask for more attempts: a killed one may start again."""
        self._killed.difference_update(job_ids)

    def changing_quota(self, user: str, pool: PoolName, values: Mapping[str, float | None]) -> None:
        """Note amounts that may be in force from now on; None for the default user's."""
        for name, value in values.items():
            key = (user, pool, name)
            self._quotas[key] = self._quotas.get(key, {None}) | {value}

    def changed_quota(self, user: str, pool: PoolName, values: Mapping[str, float | None]) -> None:
        """Note amounts that are in force, as their user has the answer."""
        self._quotas.update({(user, pool, name): {value} for name, value in values.items()})

    def told(self, user: str, changes: Sequence[JobChange], after: int) -> None:
        """Check what a user's event stream brings."""
        for change in changes:
            self.check("events", change.job.change > after, "told again:", user, change.job.change, after)
            self.check("events", change.job.spec.user == user, "told another user:", user)
            after = change.job.change

    # --- commits

    def allowance(self, command: str, arguments: tuple[object, ...]) -> Allowance:
        """Return the amounts that a launch may take users to, as of the moment when it is decided."""
        if command != "launch":
            return {}
        self._hosts_at_decision = self.known_hosts  # launches are decided one after the other
        instances: Sequence[Instance] = arguments[0]  # type: ignore[assignment]
        places = {
            (job.spec.user, job.spec.pool)
            for instance in instances
            if (job := self._state.job(instance.job_id)) is not None
        }
        return {
            (user, pool): {name: self._most(user, pool, name) for name in QUOTA_NAMES}
            for user, pool in sorted(places)
        }

    def committed(self, command: str, changes: Sequence[JobChange], allowance: object) -> None:
        """Check what one command has committed."""
        for change in changes:
            job = change.job
            before = self._jobs.get(job.job_id)
            self.check("I2", job.change > self._change, "change numbers do not grow:", job.change)
            self._change = job.change
            if before is None:
                self._check_new(job)
            else:
                self._check_step(command, before, job)
            self._check_state(command, job)
            self._jobs[job.job_id] = job
            if before is not None and len(job.instances) > len(before.instances):
                self._check_launch(job, before, allowance)  # type: ignore[arg-type]

    def _check_new(self, job: Job) -> None:
        sent = self._sent.get(job.job_id)
        self.check("I1", sent is not None, "nobody sent:", job.job_id)
        if sent is None:
            return
        moved = {move.destination for move in self._settings.pool_moves if move.pool == sent.pool}
        self.check("I1", job.spec.pool in {sent.pool, *moved}, "moved to", job.spec.pool)
        same = {
            name: getattr(job.spec, name) == getattr(sent, name)
            for name in JobSpec.__slots__
            if name not in ("pool", "submit_pool")
        }
        self.check("I1", all(same.values()), "stored otherwise than sent:", job.job_id, same)
        self.check("I2", job.state is JobState.WAITING and not job.instances, "not new:", job.job_id)

    def _check_step(self, command: str, before: Job, job: Job) -> None:
        self.check("I2", before.spec == job.spec and before.seq == job.seq, "another job:", job.job_id)
        allowed = job.state in EDGES[before.state] or command == "retry"
        self.check("I2", allowed, job.job_id, "went from", before.state, "to", job.state, "by", command)
        kept = job.instances[: len(before.instances)]
        for was, now in zip(before.instances, kept, strict=True):
            self.check("I3", was.instance_id == now.instance_id, "instances changed places:", job.job_id)
            if not was.status.is_open:
                same = [getattr(was, name) == getattr(now, name) for name in FINAL_FIELDS]
                self.check("I3", all(same), command, "changed a finished instance:", was, now)

    def _check_state(self, command: str, job: Job) -> None:
        opened = [instance for instance in job.instances if instance.status.is_open]
        self.check("I4", len(opened) <= 1, "open instances of", job.job_id, len(opened))
        used = self._attempts(job)
        succeeded = any(instance.status is InstanceStatus.SUCCESS for instance in job.instances)
        none_left = bool(job.instances) and used >= job.max_retries
        if command == "retry":
            # As in Cook a job that is not completed goes on, though its user left it no further attempt.
            (self._lowered.add if none_left else self._lowered.discard)(job.job_id)
            if succeeded:  # and one that succeeded waits once more
                self._repeated.add(job.job_id)
        facts = (job.job_id, job.state, "attempts", used, "of", job.max_retries, "killed", job.killed)
        if job.state is JobState.COMPLETED:
            self.check("I5", succeeded or job.killed or none_left, "completed too early:", *facts)
            self._repeated.discard(job.job_id)
        else:
            succeeded = succeeded and job.job_id not in self._repeated
            is_over = (
                succeeded or job.killed or (none_left and job.job_id not in self._lowered and not opened)
            )
            self.check("I5", not is_over, "not completed:", *facts)
            self.check("I5", bool(opened) == (job.state is JobState.RUNNING), "open or not:", *facts)

    def _attempts(self, job: Job) -> int:
        reasons = Counter(each.reason for each in job.instances if not each.status.is_open)
        attempts = 0
        for name, number in reasons.items():
            reason = REASONS.get(name or "")
            if reason is None or not reason.mea_culpa or job.spec.disable_mea_culpa_retries:
                attempts += number
                continue
            limit = self._settings.jobs.mea_culpa_limits.get(reason.name, reason.failure_limit)
            limit = self._settings.jobs.mea_culpa_limit if limit is None else limit
            attempts += 0 if limit == NEVER_COUNTS else max(0, number - limit)
        return attempts

    def _check_launch(self, job: Job, before: Job, allowance: Allowance) -> None:
        spec, instance = job.spec, job.instances[-1]
        self.check("I6", job.job_id not in self._killed, "launched after its kill:", job.job_id)
        self.check("I4", before.state is JobState.WAITING, "launched though it did not wait:", job.job_id)
        for name, amount in self._usage(spec.user, spec.pool).items():
            most = allowance[spec.user, spec.pool][name]
            self.check("I8", amount <= most + EPSILON, spec.user, spec.pool, name, amount, "above", most)
        for quota in self._settings.pool_quotas[:1]:
            usage = self._usage(None, spec.pool)
            self.check("I8", usage["count"] <= quota.count, "pool", spec.pool, usage, "above", quota)
        host = self._hosts[instance.host]
        for attribute, _, value in spec.constraints:
            self.check("I10", attribute == "zone" and host.zone == value, spec.job_id, "on", host)
        group = None if spec.group is None else self._state.groups[spec.group]
        if group is not None and group.host_placement["type"] == "unique":
            others = [
                other.job_id
                for other in self._jobs.values()
                if other.spec.group == spec.group and other.job_id != job.job_id
                if (opened := other.open_instance) is not None and opened.host == host.name
            ]
            self.check("I10", not others, "not apart from its group:", job.job_id, others)
        if self._settings.placement.avoid_failed_hosts == "while_others":
            tried = {each.host for each in before.instances if not each.preempted}
            untried = [
                name
                for name in sorted(self._hosts_at_decision - tried)
                if self._could_run(spec, self._hosts[name])
            ]
            self.check(
                "I10", host.name not in tried or not untried, job.job_id, "again on", host.name, untried
            )

    def _could_run(self, spec: JobSpec, host: HostPlan) -> bool:
        return spec.resources.fits_in(host.whole) and all(
            host.zone == value for _, _, value in spec.constraints
        )

    def _usage(self, user: str | None, pool: PoolName) -> dict[str, float]:
        usage = dict.fromkeys(QUOTA_NAMES, 0.0)
        for job in self._jobs.values():
            if user in (None, job.spec.user) and job.spec.pool == pool and job.open_instance is not None:
                usage["count"] += 1
                usage["cpus"] += job.spec.cpus
                usage["mem"] += job.spec.mem_mb
                usage["gpus"] += job.spec.gpus
        return usage

    def _most(self, user: str, pool: PoolName, name: str) -> float:
        """The largest quota that may be in force."""
        default = max(
            (inf if value is None else value) for value in self._quotas.get(("default", pool, name), {None})
        )
        own = self._quotas.get((user, pool, name), {None})
        return max(default if value is None else value for value in own)

    # --- views

    def notified(self, changes: Sequence[JobChange]) -> None:
        """Check that the scheduler's views have followed a commit."""
        if self.scheduler is not None:
            for job_id in dict.fromkeys(change.job.job_id for change in changes):
                self._check_views(self.scheduler, self._jobs[job_id])

    def _check_views(self, scheduler: Scheduler, job: Job) -> None:
        row, opened = scheduler.running_job(job.job_id), job.open_instance
        waits = scheduler.queues.is_waiting(job.spec.pool, job.job_id)
        self.check("views", waits == (job.state is JobState.WAITING), job.job_id, job.state, "queued:", waits)
        runs = opened.instance_id if opened is not None and job.state is JobState.RUNNING else None
        self.check("views", (row and row.instance_id) == runs, job.job_id, job.state, "running row:", row)

    def check_all(self) -> None:
        """Compare every view of the scheduler with the store, and hosts with their capacity."""
        scheduler = self.scheduler
        for job_id in self._acknowledged:
            self.check("I1", job_id in self._state.jobs, "lost:", job_id)
        if scheduler is None:
            return
        for job in self._jobs.values():
            self._check_views(scheduler, job)
        for pool in self._settings.pools:
            index = scheduler.queues.index(pool.name)
            for user in (*self._scenario.users, "default"):
                usage, expected = index.usage(user), self._usage(user, pool.name)
                amounts = {"count": usage.count, "cpus": usage.cpus, "mem": usage.mem_mb, "gpus": usage.gpus}
                same = all(abs(amounts[name] - expected[name]) < EPSILON for name in QUOTA_NAMES)
                self.check("I19", same, user, pool.name, amounts, "in the store", expected)
            reserved = scheduler.queues.reservations.for_pool(pool.name)
            waiting = all(scheduler.queues.is_waiting(pool.name, job_id) for job_id in reserved)
            self.check("views", waiting, "reserved for what does not wait:", reserved)

    # --- hosts

    def launched(self, launch: Launch) -> None:
        """Check an instance that a cluster is asked to launch."""
        instance = launch.instance
        job = self._state.job_of(instance.instance_id)
        self.check("I7", job is not None, "launched without a record:", instance.instance_id)
        if job is not None:
            stored = next(each for each in job.instances if each.instance_id == instance.instance_id)
            same = stored.host == instance.host and stored.cluster == instance.cluster
            self.check("I7", same, "launched otherwise than committed:", instance, stored)

    def task_started(self, host: str, launch: Launch, running: Collection[Launch]) -> None:
        """Check a task that a host starts.

        Args:
            host: name of the host.
            launch: the new task.
            running: all tasks of the host, the new one included.
        """
        job_id, instance_id = launch.spec.job_id, launch.instance.instance_id
        held = sum((task.spec.resources for task in running), Resources())
        whole = self._hosts[host].whole
        fits = held.cpus <= whole.cpus + EPSILON and held.mem_mb <= whole.mem_mb + EPSILON
        self.check("I7", fits, host, "holds", held, "of", whole)
        most = self._settings.placement.max_tasks_per_host
        self.check("I10", most is None or len(running) <= most, host, "runs", len(running), "of", most)
        self.check("I7", host == launch.instance.host, "on another host than committed:", instance_id, host)
        for other in self._running[job_id]:
            # A task whose instance was ended (preempted, say) may start late, and runs until it is killed.
            are_open = self._is_open(other) and self._is_open(instance_id)
            self.check("I4", not are_open, "two tasks of", job_id, "run:", other, instance_id)
            self.overlaps += 1
        self._running[job_id][instance_id] = host

    def task_ended(self, launch: Launch) -> None:
        """Note that a task runs no more."""
        self._running[launch.spec.job_id].pop(launch.instance.instance_id, None)

    def acknowledged(self, updates: Sequence[StatusUpdate]) -> None:
        """Check updates that the scheduler has acknowledged to a cluster."""
        for update in updates:
            instance = self._instance(update.instance_id)
            if instance is None:
                continue
            if update.state.is_final:
                self.check("I12", not instance.status.is_open, "acknowledged and open:", update)
            elif update.state is TaskState.RUNNING:
                # A task that is to be stopped is killed instead, also if its job was retried meanwhile.
                job = self._state.jobs[instance.job_id]
                is_stopped = job.state is JobState.COMPLETED or instance.reason is not None
                stored = instance.status is not InstanceStatus.UNKNOWN or is_stopped
                self.check("I12", stored, "not stored:", update)

    def _instance(self, instance_id: InstanceId) -> Instance | None:
        job = self._state.job_of(instance_id)
        return None if job is None else next(i for i in job.instances if i.instance_id == instance_id)

    def _is_open(self, instance_id: InstanceId) -> bool:
        instance = self._instance(instance_id)
        return instance is not None and instance.status.is_open
