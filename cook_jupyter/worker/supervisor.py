"""The supervisor of a host's instances: it launches, watches, limits and stops them, and survives kill -9.

Lives here: `Supervisor`, and `SupervisorListener`, through which a front end is notified.
Not here: front ends, which decide what to run and pass reports on (`worker.agent`, over a Unix socket);
waiting launches (`worker.launch_queue`); the pool of warm workers (`worker.pool`); journals
(`worker.journal`), and the conclusions from them (`worker.recovery`).

A front end owns the event loop and its rounds: wait for events, then call `process_due`, which decides,
records and acts. A launch is recorded before it is sent to a worker, a kill before the signal; an end is
kept, and recovered after a crash, until it is acknowledged. Messages of the front end on channels of the same
loop are sent after the journal was written.
"""

import os
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from cook_jupyter.worker import processes, protocol, recovery
from cook_jupyter.worker.agent_log import log
from cook_jupyter.worker.channel import SelectorLoop
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import BrokenStream, Frame, Header, frame_of
from cook_jupyter.worker.home import JOURNAL
from cook_jupyter.worker.journal import AgentJournal, segment_of
from cook_jupyter.worker.launch_queue import LaunchQueue
from cook_jupyter.worker.limits import CgroupParent
from cook_jupyter.worker.outbox import Outbox
from cook_jupyter.worker.pool import PoolCallbacks, WorkerPool, WorkerProcess
from cook_jupyter.worker.progress import Progress, ProgressReader
from cook_jupyter.worker.running import MIN_CHECK_INTERVAL_S, RunningInstance
from cook_jupyter.worker.sandbox import FOLDER, remove_if_untouched, write_stderr
from cook_jupyter.worker.task import Cause, EndReport, TaskExit, end_of, is_folder_name

_TICK_S = MIN_CHECK_INTERVAL_S
_REPORT_RUNNING_AFTER_S = 0.05  # the start of an instance that ends sooner is not reported
_REFUSED_EXIT_CODE = 126  # that of shells for what cannot be executed
_OVERTIME_S = 2.0  # after the grace period, for a worker to kill its command itself
_PRUNE_INTERVAL_S = 3600.0
_DAY_S = 86400.0


class SupervisorListener(Protocol):
    """Callbacks of a supervisor, implemented by front ends. They must not block."""

    def on_running(self, instance_id: str, sandbox: str, at_ms: int) -> None:
        """Report that an instance is running; not called for one that ends at once."""

    def on_progress(self, instance_id: str, sequence: int, percent: int, message: str | None) -> None:
        """Report the progress of an instance; the report with the highest sequence number is the latest."""

    def on_end(self, report: EndReport) -> None:
        """Report an end, which stays in `Supervisor.unacknowledged_ends` until it is acknowledged."""


class Supervisor:
    """Runs the instances of one home in warm workers; takes over those that a killed supervisor left.

    Args:
        loop: event loop of the front end.
        listener: the front end, called in the rounds of the loop, and by `launch`, `kill` and `stop`.
        home: directory with those of journals and sandboxes; no other supervisor may use it.
        grace_s: time between SIGTERM and SIGKILL.
        idle_worker_s: time without work after which a worker exits.
        sandbox_days: age in days at which unchanged sandboxes are removed.
        tasks_survive: whether instances go on when this process is gone, for the next supervisor of this home
            to find; otherwise all their processes are killed then.

    Raises:
        OSError: the journal cannot be read or written.
    """

    def __init__(
        self,
        loop: SelectorLoop,
        listener: SupervisorListener,
        *,
        home: str,
        grace_s: float = 5.0,
        idle_worker_s: float = 60.0,
        sandbox_days: float = 7.0,
        tasks_survive: bool = True,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._home = home
        self._grace_s = grace_s
        self._idle_worker_s = idle_worker_s
        self._sandbox_days = sandbox_days
        self._journal_folder = f"{home}/{JOURNAL}"
        self._sandboxes = f"{home}/{FOLDER}"
        self._queue = LaunchQueue()
        self._running: dict[str, RunningInstance] = {}
        self._assigned: list[tuple[Frame, RunningInstance]] = []  # in this round
        self._signals: list[tuple[WorkerProcess, int]] = []  # in this round
        self._to_dispatch: set[str] = set()  # interpreters that may have both launches and idle workers
        self._unusable: set[str] = set()
        self._stopping = False
        self._next_tick = self._next_prune = time.monotonic()
        self._outbox = Outbox(self._journal_folder)
        self._pool = WorkerPool(
            loop,
            home=home,
            grace_s=grace_s
            if tasks_survive
            else _DAY_S,  # each kill may have its own, which this process keeps
            tasks_survive=tasks_survive,
            groups=CgroupParent.find(),
            listener=PoolCallbacks(
                ready=self._to_dispatch.add,
                frame=self._on_worker_frame,
                died=self._on_worker_dead,
                unusable=self._on_interpreter_unusable,
            ),
        )
        self._recover()
        self._pool.request_workers(sys.executable, 0)

    # --- requests of a front end --------------------------------------------------------------------------

    def launch(self, launch: Frame) -> None:
        """Start an instance as soon as there is a worker. An instance that is already known is not affected.

        Args:
            launch: frame from `Task.packed`, checked against `protocol.FROM_SCHEDULER`.
        """
        instance_id: str = launch.header["instance_id"]
        if instance_id in self._running or instance_id in self._queue or instance_id in self._outbox:
            return  # sent again by a scheduler that could not know
        if self._stopping or not is_folder_name(instance_id):
            self._report_unlaunched(instance_id)
        else:
            self._enqueue(launch)

    def kill(self, instance_id: str, *, grace_s: float | None = None) -> None:
        """Stop an instance: TERM to its process group, KILL after the grace period; ignore unknown ids.

        Args:
            instance_id: the instance.
            grace_s: time between TERM and KILL; None for that of this supervisor. If the instance was told to
                stop before, it can only get shorter.
        """
        self._stop(instance_id, Cause.KILLED, grace_s)

    def stop(self, *, grace_s: float | None = None) -> None:
        """Stop all instances and launch no more; `is_stopped` when the last one has ended.

        Args:
            grace_s: time between TERM and KILL; None for that of this supervisor.
        """
        self._stopping = True
        for header in list(self.open_launches()):
            self._stop(header["instance_id"], Cause.STOPPED, grace_s)

    def acknowledge(self, instance_ids: Collection[str]) -> None:
        """Forget ends that the front end has reported durably."""
        self._journal.settle(instance_ids)
        self._outbox.settle(instance_ids)

    def open_launches(self) -> Iterator[Header]:
        """Yield the launch headers of all instances that have not ended."""
        yield from self._queue.headers()
        for instance in self._running.values():
            yield instance.header

    def unacknowledged_ends(self) -> Iterable[EndReport]:
        """Return the unacknowledged ends, oldest first, including those before a crash."""
        return self._outbox.reports()

    @property
    def is_idle(self) -> bool:
        """Whether no instance is running or waiting."""
        return not self._running and not self._queue

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called and all instances have ended."""
        return self._stopping and self.is_idle

    # --- a round of the loop ------------------------------------------------------------------------------

    def poll_timeout_s(self) -> float | None:
        """Return the time until `process_due` must be called if no event happens; None for any time."""
        if self._to_dispatch or self._assigned or self._signals:
            return 0.0
        return None if self.is_idle else max(0.0, self._next_tick - time.monotonic())

    def process_due(self, now: float) -> None:
        """Enforce limits, dispatch launches to workers, record what was decided in this round, then do it.

        Args:
            now: monotonic time in seconds.
        """
        if now >= self._next_tick and not self.is_idle:
            self._next_tick = now + _TICK_S
            self._tick(now)
        self._dispatch()
        self._commit()

    def maintain(self, now: float) -> None:
        """Do what no event triggers; to be called every few seconds.

        Args:
            now: monotonic time in seconds.
        """
        self._pool.maintain(idle_s=self._idle_worker_s)
        if now >= self._next_prune:
            self._next_prune = now + _PRUNE_INTERVAL_S
            self._prune_sandboxes()

    def restore_journal(self) -> None:
        """Write the journal again if it was removed, including ends whose segments were removed.

        Raises:
            OSError: writing failed.
        """
        self._journal.restore()
        for report in self._outbox.unrecorded():
            self._journal.record(report.end.instance_id, report.as_header(), report.result)

    def kill_unrecorded(self) -> None:
        """Kill instances that are not in the journal: another supervisor owns it, and reports them lost."""
        recorded = AgentJournal.read(self._journal_folder)
        self._signals += [
            (instance.worker, signal.SIGKILL)
            for instance in self._running.values()
            if instance.instance_id not in recorded
        ]

    def close(self) -> None:
        """Close the connections to workers. Instances keep running, for the next supervisor to find."""
        self._pool.close()

    def _tick(self, now: float) -> None:
        process_tree = processes.ProcessTree()
        for instance in list(self._running.values()):
            if not instance.start_reported and now - instance.begun >= _REPORT_RUNNING_AFTER_S:
                instance.start_reported = True
                instance_id = instance.instance_id
                self._listener.on_running(instance_id, self._sandbox(instance_id), now_ms())
            if instance.kill_at is not None and now >= instance.kill_at:
                self._end_grace(instance, now)
            if instance.deadline is not None and now >= instance.deadline:
                self._stop(instance.instance_id, Cause.RUNTIME)
            if now >= instance.next_memory_check and instance.exceeds_memory(now, process_tree):
                self._stop(instance.instance_id, Cause.MEMORY)
            if instance.is_call and now >= instance.next_progress_check:
                progress = instance.new_progress(now, self._sandbox(instance.instance_id))
                if progress is not None:
                    self._report_progress(instance, progress)
        self._to_dispatch.update(self._queue.interpreters())  # a spawner may have gone away meanwhile

    def _end_grace(self, instance: RunningInstance, now: float) -> None:
        """Kill an instance that was told to stop: a command through its worker, which knows its processes."""
        if instance.is_call or instance.grace_over:
            self._signals.append((instance.worker, signal.SIGKILL))
            instance.kill_at = now + self._grace_s
        else:
            self._signals.append((instance.worker, signal.SIGTERM))
            instance.kill_at = now + _OVERTIME_S
        instance.grace_over = True

    def _commit(self) -> None:
        """Record what was decided in this round, then do it."""
        assigned, self._assigned = self._assigned, []
        try:
            self._journal.flush()
        except OSError as error:
            log(f"the journal cannot be written, {len(assigned)} launches are refused: {error}")
            for _, instance in assigned:
                del self._running[instance.instance_id]
                self._pool.release(instance.worker, leftover_mb=0.0)
                self._report_unlaunched(instance.instance_id)
            assigned = []
        for launch, instance in assigned:
            if instance.worker.group is not None:
                instance.worker.group.limit(instance.header["mem_mb"])
            if instance.worker.channel is not None:
                instance.worker.channel.send(launch.packed())
        self._loop.flush()
        signals, self._signals = self._signals, []
        for worker, number in signals:
            worker.signal(number)
        self._outbox.remove_settled()

    # --- launches -----------------------------------------------------------------------------------------

    def _enqueue(self, launch: Frame) -> None:
        header = launch.header
        if header.get("python") in self._unusable:  # it can run as a plain command, only slower
            launch = frame_of({**header, "python": None}, launch.tail)
        python = launch.header.get("python") or sys.executable
        self._queue.put(python, launch)
        self._to_dispatch.add(python)

    def _dispatch(self) -> None:
        """Assign waiting launches to idle workers, and request more workers if there are not enough."""
        while self._to_dispatch:
            python = self._to_dispatch.pop()
            for user in self._queue.users(python):
                while (launch := self._queue.first(python, user)) is not None:
                    worker = self._pool.acquire(python, user, launch.header.get("import_environment", ""))
                    if worker is None:
                        break
                    self._queue.pop(python, user)
                    self._assign(launch, worker)
            if python not in self._unusable:
                self._pool.request_workers(python, self._queue.count(python))

    def _assign(self, launch: Frame, worker: WorkerProcess) -> None:
        header = launch.header
        instance_id: str = header["instance_id"]
        begun = time.monotonic()
        limit_s = header.get("max_runtime_s")
        deadline = None if limit_s is None else begun + limit_s
        instance = RunningInstance(header, worker, begun=begun, deadline=deadline)
        worker.serves = instance_id
        self._running[instance_id] = instance
        assignment = {"worker": worker.name, "pid": worker.pid, "mark": worker.identity}
        record = {"t": "launch", **assignment, "base_mb": instance.base_mb, "until": deadline}
        self._journal.record(instance_id, record, launch.head)
        self._assigned.append((launch, instance))

    def _on_interpreter_unusable(self, python: str, reason: str | None) -> None:
        """Run calls of an interpreter without workers as plain commands, unless there is a reason not to."""
        launches = self._queue.drain(python)
        if python == sys.executable:
            for launch in launches:
                self._report_unlaunched(launch.header["instance_id"])
            return
        if reason is not None:
            for launch in launches:
                self._report_refused(launch.header["instance_id"], reason)
            return
        self._unusable.add(python)
        for launch in launches:
            self._enqueue(launch)

    # --- ends ---------------------------------------------------------------------------------------------

    def _stop(self, instance_id: str, cause: str, grace_s: float | None = None) -> None:
        """Stop an instance; only the first cause counts, and the shortest grace period."""
        if self._queue.remove(instance_id) is not None:
            self._report_end(TaskExit(instance_id, None, now_ms()), cause)
            return
        instance = self._running.get(instance_id)
        if instance is None:
            return
        kill_at = time.monotonic() + (self._grace_s if grace_s is None else grace_s)
        if instance.stop_cause is not None:
            if instance.kill_at is not None and not instance.grace_over:
                instance.kill_at = min(instance.kill_at, kill_at)
            return
        instance.stop_cause = cause
        instance.kill_at = kill_at
        self._journal.record(instance_id, {"t": "doom", "cause": cause})
        if cause == Cause.MEMORY:  # it would continue to grow during the grace period
            self._signals.append((instance.worker, signal.SIGKILL))
            instance.grace_over = True
            return
        self._signals.append((instance.worker, signal.SIGTERM))

    def _on_worker_frame(self, worker: WorkerProcess, frame: Frame) -> None:
        header = frame.header
        kind = protocol.require(header, protocol.FROM_WORKER)
        instance_id = header["instance_id" if kind == "end" else "id"]
        if worker.serves is None or worker.serves != instance_id:
            raise BrokenStream(f"worker {worker.name} reports {instance_id[:40]!r}, which it does not run")
        if kind == "end":
            if not self._outbox.follows(worker.name, header["segment"]):
                raise BrokenStream(f"worker {worker.name} reports an impossible segment")
            self._on_end(worker, frame)
        elif (instance := self._running.get(instance_id)) is not None:
            self._report_progress(instance, tuple(header["progress"]))

    def _on_end(self, worker: WorkerProcess, frame: Frame) -> None:
        end = end_of(frame.header)
        instance = self._running.pop(end.instance_id, None)
        if instance is None:
            return
        location = (worker.name, frame.header["segment"])
        self._report_end(
            end, self._cause(instance, end), instance=instance, result=frame.tail, location=location
        )
        is_broken = instance.is_call and end.exit_code != 0 and not end.inline and end.blob is None
        is_stopped = instance.stop_cause is not None
        if frame.header["retires"] or is_broken or worker.channel is None or is_stopped:
            if remaining := frame.header.get("remaining"):
                task_text = f"{end.instance_id} of {worker.user}"
                log(f"worker {worker.name} is retired after {task_text}: {'; '.join(remaining)}")
            worker.serves = None
            self._pool.retire(worker)
        else:
            if frame.header.get("imported"):
                worker.import_environment = instance.header.get("import_environment", "")
            self._pool.release(worker, leftover_mb=frame.header["leftover_mb"])

    def _on_worker_dead(self, worker: WorkerProcess, code: int | None) -> None:
        """Determine how the instance of a dead worker ended: with the worker, or just before."""
        instance = self._running.get(worker.serves) if worker.serves is not None else None
        if instance is not None:
            recorded = recovery.find_end(self._journal_folder, worker.name, instance.instance_id)
            if recorded is not None:
                self._on_end(worker, frame_of(recorded.as_written(), recorded.result))
            else:
                self._on_unrecorded_end(instance, code)
        self._outbox.on_worker_gone(worker.name)
        self._to_dispatch.add(worker.python)

    def _on_unrecorded_end(self, instance: RunningInstance, code: int | None) -> None:
        """Report the end of an instance whose worker died while running it."""
        instance_id, worker = instance.instance_id, instance.worker
        del self._running[instance_id]
        if not worker.spawned and not instance.is_call:
            recovery.kill_shell(recovery.find_shell(self._journal_folder, worker.name, instance_id))
        if code is not None and instance.stop_cause is None and self._was_not_started(instance):
            self._report_end(TaskExit(instance_id, None, now_ms()), Cause.UNLAUNCHED, instance=instance)
            return
        sandbox = self._sandbox(instance_id)
        progress = None
        if instance.is_call:
            progress = ProgressReader((f"{sandbox}/stdout", f"{sandbox}/stderr")).read_new(at_end=True)
        end = TaskExit(
            instance_id,
            None if code is None else code if code >= 0 else 128 - code,
            now_ms(),
            signal=max(0, -(code or 0)),
            termed=code == -signal.SIGTERM,
            progress=progress,
            written=not instance.is_call or remove_if_untouched(sandbox),
        )
        if code is None:
            cause = instance.stop_cause or Cause.LOST
        elif code == 0:  # os._exit(0): the task has not been completed
            cause = instance.stop_cause or Cause.FAILED
        else:
            cause = self._cause(instance, end)
        self._report_end(end, cause, instance=instance)

    def _was_not_started(self, instance: RunningInstance) -> bool:
        """Return whether a worker died before it started its task: its spare sandbox still exists."""
        in_stock = os.path.isdir(f"{self._sandboxes}/.{instance.worker.name}")
        return in_stock and not os.path.isdir(self._sandbox(instance.instance_id))

    def _cause(self, instance: RunningInstance, end: TaskExit) -> str:
        return recovery.cause_of(
            end,
            instance.stop_cause,
            mem_mb=instance.header["mem_mb"],
            group=instance.worker.group,
            seen_mb=instance.peak_mb,
        )

    def _report_unlaunched(self, instance_id: str) -> None:
        self._report_end(TaskExit(instance_id, None, now_ms()), Cause.UNLAUNCHED)

    def _report_refused(self, instance_id: str, reason: str) -> None:
        """Report that the interpreter that a job has chosen cannot run it; its stderr tells why."""
        log(f"{instance_id} was not started: {reason}")
        is_written = write_stderr(self._sandbox(instance_id), f"cook_jupyter: {reason}\n")
        end = TaskExit(instance_id, _REFUSED_EXIT_CODE, now_ms(), message=reason, written=is_written)
        self._report_end(end, Cause.FAILED)

    def _report_end(
        self,
        end: TaskExit,
        cause: str,
        *,
        instance: RunningInstance | None = None,
        result: bytes = b"",
        location: tuple[str, int] | None = None,
    ) -> None:
        """Store an end until it is acknowledged, and report it.

        Args:
            end: the end.
            cause: cause of the end.
            instance: the instance that ended; None if no worker had it.
            result: result of its call.
            location: worker and segment of the worker's record; None if there is none.
        """
        if instance is not None and instance.peak_mb > (end.peak_mb or 0.0):
            end = end._replace(peak_mb=instance.peak_mb)
        report = EndReport(end, cause, self._sandbox(end.instance_id), result)
        if instance is not None:
            if end.progress is not None:
                self._report_progress(instance, end.progress)
            if location is None:  # no worker has recorded it
                self._journal.record(end.instance_id, report.as_header(), result)
        self._outbox.add(report, location)
        self._listener.on_end(report)

    def _report_progress(self, instance: RunningInstance, progress: Progress) -> None:
        percent, message = progress
        sequence = instance.next_progress_sequence()
        self._listener.on_progress(instance.instance_id, sequence, round(percent), message)

    # --- after a crash, and long after an end -------------------------------------------------------------

    def _recover(self) -> None:
        recovered = recovery.recover(self._journal_folder)
        self._journal = AgentJournal(self._journal_folder, recovered.records)
        recovery.remove_files(recovered.useless)
        for recovered_instance in recovered.instances.values():
            if recovered_instance.end is not None:
                self._recover_end(recovered_instance, recovered_instance.end)
            else:
                self._recover_running(recovered_instance)

    def _recover_end(
        self, recovered_instance: recovery.RecoveredInstance, recorded: recovery.RecordedExit
    ) -> None:
        launch = recovered_instance.launch
        end = end_of(recorded.header)
        cause = recorded.header.get("cause") or recovery.cause_of(
            end, recovered_instance.stop_cause, mem_mb=launch["mem_mb"]
        )
        location = None if recorded.segment is None else (launch["worker"], segment_of(recorded.segment))
        self._outbox.add(EndReport(end, cause, self._sandbox(end.instance_id), recorded.result), location)
        if not recovered_instance.worker_alive:
            self._outbox.on_worker_gone(launch["worker"])

    def _recover_running(self, recovered_instance: recovery.RecoveredInstance) -> None:
        launch = recovered_instance.launch
        python = launch.get("python") or sys.executable
        worker = WorkerProcess(
            name=launch["worker"], pid=launch["pid"], identity=launch["mark"], python=python
        )
        worker.user, worker.serves = launch["user"], launch["instance_id"]
        worker.held_mb = launch["base_mb"]
        instance = RunningInstance(launch, worker, begun=time.monotonic(), deadline=launch["until"])
        self._running[instance.instance_id] = instance
        if recovered_instance.stop_cause is not None:
            instance.stop_cause, instance.kill_at = (
                recovered_instance.stop_cause,
                time.monotonic() + self._grace_s,
            )
            self._signals.append((worker, signal.SIGTERM))
        self._pool.adopt(worker)

    def _prune_sandboxes(self) -> None:
        from cook_jupyter.worker.retention import prune_sandboxes  # its imports are a tenth of the start

        prune_sandboxes(
            self._sandboxes,
            clock_file=f"{self._home}/clock.json",
            max_age_s=self._sandbox_days * _DAY_S,
            running=self._running,
            workers={worker.name for worker in self._pool.workers()},
        )

    def _sandbox(self, instance_id: str) -> str:
        return f"{self._sandboxes}/{instance_id}"
