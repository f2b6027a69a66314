"""The node agent: runs what a scheduler gives it on this host, and outlives both of them being killed.

Lives here: the agent's loop: launches, kills and acknowledgements in; ends, progress and the news that
something runs out; limits enforced in between.
Not here: its workers (`worker.pool`), its memory (`worker.journal`, `worker.recovery`), the scheduler's end
of the connection (`clusters.local`).

Each round of the loop: hear everybody, decide, write down, act. A launch is written down before it is handed
to a worker, a kill before the signal; ends are kept until the scheduler has acknowledged them. The newest
scheduler that says hello is the one that is served.

Each connection speaks for what it serves. The scheduler's is the one that showed the secret of this home. A
worker's can report the end and the progress of the instance that it was given, and of no other. A message
that is not as `worker.protocol` has it ends its connection, and nothing else.

What travels (see `worker.task` for tasks and ends; `id` is an instance's):

    to us       hello {secret}     who greets is told all that runs, and all ends it has not acknowledged
                launch, kill {id}, ack {ids}
                stop               end everything, tell the ends, go
                leave              go; what runs goes on, and the next agent finds it
    from us     known {version, pid, running: [{id, cpus, mem_mb, gpus, ports}], ended: [id]}
                running {id, sandbox, at_ms}, end {..., cause, sandbox} + result
                progress {id, sequence, percent, message}
                replaced           another scheduler has said hello
                refused {why}      the secret was wrong; the connection is closed
                trouble {text}     nothing can be launched here, and why; null when that is over
"""

import contextlib
import os
import signal
import sys
import time
from collections import deque
from typing import NamedTuple

from cook_jupyter.worker import processes, protocol, recovery
from cook_jupyter.worker.address import SECRET, VERSION
from cook_jupyter.worker.agent_log import log
from cook_jupyter.worker.channel import Channel, SelectorLoop
from cook_jupyter.worker.clock import now_ms
from cook_jupyter.worker.frames import BrokenStream, Frame, Header, frame_of, pack, whole_frames
from cook_jupyter.worker.home import JOURNAL, AgentHome, HomeRemoved, HomeTaken
from cook_jupyter.worker.journal import Ledger, segment_of
from cook_jupyter.worker.limits import MemoryGroups
from cook_jupyter.worker.log_file import bound_log
from cook_jupyter.worker.outbox import Outbox
from cook_jupyter.worker.pool import PoolCallbacks, WorkerPool, WorkerProcess
from cook_jupyter.worker.progress import Progress, ProgressReader
from cook_jupyter.worker.sandbox import FOLDER, remove_if_untouched
from cook_jupyter.worker.task import Cause, End, end_of

_TICK_S = 0.1
_TELL_RUNNING_AFTER_S = 0.05  # who ends sooner is not worth two messages
_PROGRESS_EVERY_S = 1.0
_GROWTH_MB_PER_S = (
    2000.0  # about what one process can touch: memory is looked at again before it can be used up
)
_OVERTIME_S = 2.0  # beyond the grace, for a worker to end its command by itself
_MAX_UNGREETED = 16  # connections that have not shown the secret; the oldest ones make way
_MAX_GREETING_BYTES = 4096
_DAY_S = 86400.0


class AgentSettings(NamedTuple):
    """How an agent behaves.

    Attributes:
        home: its folder.
        grace_s: between TERM and KILL.
        idle_exit_s: without a scheduler and without work it leaves after that long.
        idle_worker_s: a worker without work does.
        sandbox_days: sandboxes that were last changed longer ago are removed.
        housekeeping_s: between two looks at what no event tells of, such as removed files.
    """

    home: str
    grace_s: float = 5.0
    idle_exit_s: float = 3600.0
    idle_worker_s: float = 60.0
    sandbox_days: float = 7.0
    housekeeping_s: float = 5.0


class RunningInstance:
    """An instance that a worker has."""

    __slots__ = (
        "base_mb",
        "begun",
        "deadline",
        "header",
        "instance_id",
        "kill_at",
        "next_memory_check",
        "peak_mb",
        "progress",
        "progress_at",
        "sequence",
        "start_reported",
        "stop_cause",
        "worker",
    )

    def __init__(
        self, header: Header, worker: WorkerProcess, *, begun: float, deadline: float | None
    ) -> None:
        self.instance_id: str = header["instance_id"]
        self.header = header
        self.worker = worker
        self.begun = begun
        self.deadline = deadline
        self.stop_cause: str | None = None
        self.kill_at: float | None = None
        self.next_memory_check = begun + _TICK_S
        self.base_mb = worker.held_mb if self.is_call else 0.0
        self.peak_mb = 0.0
        self.progress: ProgressReader | None = None
        self.progress_at = begun + _PROGRESS_EVERY_S
        self.sequence = 0
        self.start_reported = False

    @property
    def is_call(self) -> bool:
        """Whether it runs inside its worker, and not as a command below it."""
        return self.header.get("python") is not None


class Agent:
    """One agent. Make it while holding the lock on its home.

    Args:
        settings: how it behaves.
        home: the folder of the agent, which holds its lock.
        log_file: the file to which the agent and its workers write, kept small by the agent; None for none.
    """

    def __init__(self, settings: AgentSettings, home: AgentHome, log_file: str | None = None) -> None:
        self._settings = settings
        self._home = home
        self._log_file = log_file
        self._trouble: str | None = None  # why nothing can be launched here
        self._folder = f"{settings.home}/{JOURNAL}"
        self._sandboxes = f"{settings.home}/{FOLDER}"
        self._loop = SelectorLoop()
        self._queues: dict[str, dict[str, deque[Frame]]] = {}  # by interpreter and user
        self._queued: dict[str, Frame] = {}
        self._running: dict[str, RunningInstance] = {}
        self._handed: list[tuple[Frame, RunningInstance]] = []  # in this round
        self._signals: list[tuple[WorkerProcess, int]] = []  # in this round
        self._to_dispatch: set[str] = set()  # interpreters for which something may be given out
        self._unusable: set[str] = set()
        self._scheduler: Channel | None = None
        self._ungreeted: list[Channel] = []  # oldest first
        self._stopping = False
        self._left = False
        now = time.monotonic()
        self._tick_at = now
        self._housekeeping_at = now
        self._prune_at = now
        self._idle_since = now
        self._listener = home.listener
        self._outbox = Outbox(self._folder)
        self._pool = WorkerPool(
            self._loop,
            home=settings.home,
            grace_s=settings.grace_s,
            groups=MemoryGroups.find(),
            listener=PoolCallbacks(self._to_dispatch.add, self._on_worker, self._on_death, self._on_unusable),
        )
        self._recover()
        self._loop.watch(self._listener, self._on_connect)
        self._pool.request_workers(sys.executable, 0)

    def run(self) -> None:
        """Work until told to go, or until nobody has wanted anything for long."""
        while not self._left:
            self._loop.run_once(self._poll_timeout_s())
            now = time.monotonic()
            if now >= self._tick_at and (self._running or self._queued):
                self._tick_at = now + _TICK_S
                self._tick(now)
            if now >= self._housekeeping_at:
                self._housekeeping_at = now + self._settings.housekeeping_s
                self._housekeep(now)
            self._dispatch()
            self._commit()
            if self._stopping and not self._running and not self._queued:
                self._left = True
        self._loop.flush()
        self._pool.close()

    def _poll_timeout_s(self) -> float:
        """How long nothing has to be done unless something happens."""
        if self._to_dispatch or self._handed or self._signals:
            return 0.0
        now = time.monotonic()
        if self._running or self._queued:
            return max(0.0, self._tick_at - now)
        return max(0.0, self._housekeeping_at - now)

    # --- the scheduler ----------------------------------------------------------------------------

    def _on_connect(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            channel = Channel(
                self._loop,
                sock,
                on_frame=lambda frame: self._on_scheduler(channel, frame),
                on_end=lambda: self._on_scheduler_gone(channel),
                largest=_MAX_GREETING_BYTES,
            )
            self._ungreeted.append(channel)
            if len(self._ungreeted) > _MAX_UNGREETED:
                self._ungreeted.pop(0).close()

    def _on_scheduler(self, channel: Channel, frame: Frame) -> None:
        is_greeted = channel is self._scheduler
        kind = protocol.require(frame.header, protocol.FROM_SCHEDULER if is_greeted else protocol.GREETING)
        if kind == "hello":
            if is_greeted or self._admit(channel, frame.header["secret"]):
                self._greet(channel)
        elif kind == "leave":
            self._left = True
        elif kind == "launch":
            self._launch(frame)
        elif kind == "kill":
            self._stop_one(frame.header["id"], Cause.KILLED)
        elif kind == "ack":
            ids = frame.header["ids"]
            self._ledger.settle(ids)
            self._outbox.settle(ids)
        elif kind == "stop":
            self._stop_all()

    def _admit(self, channel: Channel, secret: str) -> bool:
        """Return whether a connection shows the secret; one that does not is closed."""
        from hmac import compare_digest  # rarely needed, and the agent's start is not to wait for it

        self._ungreeted.remove(channel)
        if compare_digest(secret.encode("utf-8", "replace"), self._home.secret.encode()):
            channel.trust()
            return True
        log("a connection was refused: it does not show the secret of this home")
        channel.send(pack({"t": "refused", "why": f"the secret shown is not the one in {SECRET}"}))
        channel.flush()
        channel.close()
        return False

    def _greet(self, channel: Channel) -> None:
        older, self._scheduler = self._scheduler, channel
        if older is not None and older is not channel:
            older.send(pack({"t": "replaced"}))
            older.flush()
            older.close()
        running = [order.header for order in self._queued.values()]
        running += [run.header for run in self._running.values()]
        held = ("cpus", "mem_mb")
        known = [
            {
                "id": h["instance_id"],
                **{name: h[name] for name in held},
                "gpus": h.get("gpus", 0.0),
                "ports": h.get("ports", ()),
            }
            for h in running
        ]
        facts = {"version": VERSION, "pid": os.getpid(), "ended": list(self._outbox.instances())}
        channel.send(pack({"t": "known", **facts, "running": known}))
        for message in self._outbox.messages():
            channel.send(message)
        if self._trouble is not None:
            channel.send(pack({"t": "trouble", "text": self._trouble}))

    def _on_scheduler_gone(self, channel: Channel) -> None:
        if channel in self._ungreeted:
            self._ungreeted.remove(channel)
        if channel is self._scheduler:
            self._scheduler = None
            self._idle_since = time.monotonic()

    def _tell(self, message: bytes) -> None:
        if self._scheduler is not None:
            self._scheduler.send(message)

    # --- launches ---------------------------------------------------------------------------------

    def _launch(self, frame: Frame) -> None:
        header = frame.header
        instance_id: str = header["instance_id"]
        if instance_id in self._running or instance_id in self._queued or instance_id in self._outbox:
            return  # it was sent again by a scheduler that could not know
        if self._stopping or not instance_id or "/" in instance_id or instance_id.startswith("."):
            self._end(header, End(instance_id, None, now_ms()), Cause.UNLAUNCHED)
            return
        self._enqueue(frame)

    def _enqueue(self, order: Frame) -> None:
        header = order.header
        if header.get("python") in self._unusable:  # its command alone is enough to run it, only slower
            order = frame_of({**header, "python": None}, order.tail)
        python = order.header.get("python") or sys.executable
        self._queues.setdefault(python, {}).setdefault(header["user"], deque()).append(order)
        self._queued[header["instance_id"]] = order
        self._to_dispatch.add(python)

    def _dispatch(self) -> None:
        """Give waiting launches to idle workers, and ask for more workers where they do not suffice."""
        while self._to_dispatch:
            python = self._to_dispatch.pop()
            queues = self._queues.get(python, {})
            for user in list(queues):
                queue = queues[user]
                while queue:
                    if queue[0].header["instance_id"] not in self._queued:  # killed meanwhile
                        queue.popleft()
                        continue
                    worker = self._pool.acquire(python, user, queue[0].header.get("import_environment", ""))
                    if worker is None:
                        break
                    self._assign(queue.popleft(), worker)
                if not queue:
                    del queues[user]
            if python not in self._unusable:
                self._pool.request_workers(python, sum(map(len, queues.values())))

    def _assign(self, order: Frame, worker: WorkerProcess) -> None:
        header = order.header
        instance_id: str = header["instance_id"]
        del self._queued[instance_id]
        begun = time.monotonic()
        limit_s = header.get("max_runtime_s")
        run = RunningInstance(
            header, worker, begun=begun, deadline=None if limit_s is None else begun + limit_s
        )
        worker.serves = instance_id
        self._running[instance_id] = run
        assignment = {"worker": worker.name, "pid": worker.pid, "mark": worker.mark, "base_mb": run.base_mb}
        self._ledger.note(instance_id, {"t": "launch", **assignment, "until": run.deadline}, order.head)
        self._handed.append((order, run))

    def _commit(self) -> None:
        """Write down what was decided in this round, then do it."""
        handed, self._handed = self._handed, []
        try:
            self._ledger.flush()
        except OSError as error:
            log(f"the ledger cannot be written, {len(handed)} launches are refused: {error}")
            for _, run in handed:
                del self._running[run.instance_id]
                self._pool.release(run.worker, leftover_mb=0.0)
                self._end(run.header, End(run.instance_id, None, now_ms()), Cause.UNLAUNCHED)
            handed = []
        for order, run in handed:
            if run.worker.group is not None:
                run.worker.group.limit(run.header["mem_mb"])
            if run.worker.channel is not None:
                run.worker.channel.send(order.packed())
        self._loop.flush()
        signals, self._signals = self._signals, []
        for worker, number in signals:
            worker.signal(number)
        self._outbox.remove_settled()

    # --- ends -------------------------------------------------------------------------------------

    def _stop_one(self, instance_id: str, cause: str) -> None:
        """Have an instance ended for this cause; the first cause stays."""
        order = self._queued.pop(instance_id, None)
        if order is not None:
            self._end(order.header, End(instance_id, None, now_ms()), cause)
            return
        run = self._running.get(instance_id)
        if run is None or run.stop_cause is not None:
            return
        run.stop_cause = cause
        self._ledger.note(instance_id, {"t": "doom", "cause": cause})
        grace_s = self._settings.grace_s
        if cause == Cause.MEMORY:  # it grows on while it is asked
            run.kill_at = time.monotonic() + grace_s
            self._signals.append((run.worker, signal.SIGKILL))
            return
        run.kill_at = time.monotonic() + grace_s + (0.0 if run.is_call else _OVERTIME_S)
        self._signals.append((run.worker, signal.SIGTERM))

    def _stop_all(self) -> None:
        """Have everything ended, and leave then."""
        self._stopping = True
        for instance_id in (*self._queued, *self._running):
            self._stop_one(instance_id, Cause.STOPPED)

    def _on_worker(self, worker: WorkerProcess, frame: Frame) -> None:
        header = frame.header
        kind = protocol.require(header, protocol.FROM_WORKER)
        instance_id = header["instance_id" if kind == "end" else "id"]
        if worker.serves is None or worker.serves != instance_id:
            raise BrokenStream(f"worker {worker.name} speaks for {instance_id[:40]!r}, which it does not run")
        if kind == "end":
            if not self._outbox.follows(worker.name, header["segment"]):
                raise BrokenStream(f"worker {worker.name} names a segment that it cannot have")
            self._on_end(worker, frame)
        elif (run := self._running.get(instance_id)) is not None:
            self._tell_progress(run, tuple(header["progress"]))

    def _on_end(self, worker: WorkerProcess, frame: Frame) -> None:
        end = end_of(frame.header)
        run = self._running.pop(end.instance_id, None)
        if run is None:
            return
        cause = self._cause(run, end)
        if cause == Cause.UNLAUNCHED:  # its sandbox could not be made: something may be missing
            self._housekeeping_at = time.monotonic()
        place = (worker.name, frame.header["segment"])
        self._end(run.header, end, cause, run=run, result=frame.tail, place=place)
        broke = run.is_call and end.exit_code != 0 and not end.inline and end.blob is None
        if frame.header["retires"] or broke or worker.channel is None or run.stop_cause is not None:
            if remaining := frame.header.get("remaining"):
                after = f"{end.instance_id} of {worker.user}"
                log(f"worker {worker.name} is retired after {after}: {'; '.join(remaining)}")
            worker.serves = None
            self._pool.retire(worker)
        else:
            if frame.header.get("imported"):
                worker.import_environment = run.header.get("import_environment", "")
            self._pool.release(worker, leftover_mb=frame.header["leftover_mb"])

    def _on_death(self, worker: WorkerProcess, code: int | None) -> None:
        """A worker is gone: its task, if it had one, ended with it, or just before it."""
        run = self._running.get(worker.serves) if worker.serves is not None else None
        if run is not None:
            found = recovery.end_in_log(self._folder, worker.name, run.instance_id)
            if found is not None:
                self._on_end(worker, frame_of(found.as_written(), found.result))
            else:
                self._on_silent_death(run, code)
        self._outbox.worker_gone(worker.name)
        self._to_dispatch.add(worker.python)

    def _on_silent_death(self, run: RunningInstance, code: int | None) -> None:
        """Its worker died in the middle of it."""
        del self._running[run.instance_id]
        if not run.worker.spawned and not run.is_call:
            recovery.end_shell(recovery.shell_in_log(self._folder, run.worker.name, run.instance_id))
        sandbox = f"{self._sandboxes}/{run.instance_id}"
        if code is not None and run.stop_cause is None and self._was_not_begun(run):
            self._end(run.header, End(run.instance_id, None, now_ms()), Cause.UNLAUNCHED, run=run)
            return
        look = (
            ProgressReader((f"{sandbox}/stdout", f"{sandbox}/stderr")).look(at_end=True)
            if run.is_call
            else None
        )
        end = End(
            run.instance_id,
            None if code is None else code if code >= 0 else 128 - code,
            now_ms(),
            signal=max(0, -(code or 0)),
            termed=code == -signal.SIGTERM,
            progress=look,
            written=not run.is_call or remove_if_untouched(sandbox),
        )
        if code is None:
            cause = run.stop_cause or Cause.LOST
        elif code == 0:  # os._exit(0): it said nothing, so it did not do what it was asked
            cause = run.stop_cause or Cause.FAILED
        else:
            cause = self._cause(run, end)
        self._end(run.header, end, cause, run=run)

    def _was_not_begun(self, run: RunningInstance) -> bool:
        """Whether a worker died with a task that it had not looked at: its sandbox is still in stock."""
        in_stock = os.path.isdir(f"{self._sandboxes}/.{run.worker.name}")
        return in_stock and not os.path.isdir(f"{self._sandboxes}/{run.instance_id}")

    def _cause(self, run: RunningInstance, end: End) -> str:
        mem_mb = run.header["mem_mb"]
        return recovery.cause_of(
            end, run.stop_cause, mem_mb=mem_mb, group=run.worker.group, seen_mb=run.peak_mb
        )

    def _end(
        self,
        header: Header,
        end: End,
        cause: str,
        *,
        run: RunningInstance | None = None,
        result: bytes = b"",
        place: tuple[str, int] | None = None,
    ) -> None:
        """Keep an end until it is acknowledged, and tell it."""
        instance_id: str = header["instance_id"]
        if run is not None and run.peak_mb > (end.peak_mb or 0.0):
            end = end._replace(peak_mb=run.peak_mb)
        told = {**end.as_header(), "cause": cause, "sandbox": f"{self._sandboxes}/{instance_id}"}
        if run is not None and end.progress is not None:
            self._tell_progress(run, end.progress)
        message = pack(told, result)
        if place is None and run is not None:
            self._ledger.note(instance_id, told, result)  # nobody else has written it down
        self._outbox.keep(instance_id, message, place)
        self._tell(message)
        if not self._running:
            self._idle_since = time.monotonic()

    # --- what time brings -------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        family = processes.Family()
        for run in list(self._running.values()):
            if not run.start_reported and now - run.begun >= _TELL_RUNNING_AFTER_S:
                run.start_reported = True
                sandbox = f"{self._sandboxes}/{run.instance_id}"
                self._tell(
                    pack({"t": "running", "id": run.instance_id, "sandbox": sandbox, "at_ms": now_ms()})
                )
            if run.kill_at is not None and now >= run.kill_at:
                self._signals.append((run.worker, signal.SIGKILL))
                run.kill_at = now + self._settings.grace_s
            if run.deadline is not None and now >= run.deadline:
                self._stop_one(run.instance_id, Cause.RUNTIME)
            if now >= run.next_memory_check:
                self._look_at_memory(run, now, family)
            if run.is_call and now >= run.progress_at:
                run.progress_at = now + _PROGRESS_EVERY_S
                self._look_for_progress(run)
        for order in self._queued.values():  # a spawner may have gone away meanwhile
            self._to_dispatch.add(order.header.get("python") or sys.executable)

    def _look_at_memory(self, run: RunningInstance, now: float, family: processes.Family) -> None:
        limit_mb: float = run.header["mem_mb"]
        worker = run.worker
        pids = family.below(worker.pid)
        if run.is_call:
            pids.append(worker.pid)
        used_mb = None if worker.group is None else worker.group.held_mb()
        if used_mb is None:
            used_mb = processes.held_mb(pids)
            if limit_mb > 0 and used_mb - run.base_mb > limit_mb and len(pids) > 1:
                # forked processes share what they have not changed
                used_mb = processes.proportional_mb(pids) or used_mb
            used_mb = max(0.0, used_mb - run.base_mb)
        run.peak_mb = max(run.peak_mb, used_mb)
        room_mb = limit_mb - used_mb
        if limit_mb > 0 and room_mb < 0:
            self._stop_one(run.instance_id, Cause.MEMORY)
        run.next_memory_check = now + (
            min(1.0, max(_TICK_S, room_mb / _GROWTH_MB_PER_S)) if limit_mb > 0 else 1.0
        )

    def _look_for_progress(self, run: RunningInstance) -> None:
        if run.progress is None:
            sandbox = f"{self._sandboxes}/{run.instance_id}"
            run.progress = ProgressReader((f"{sandbox}/stdout", f"{sandbox}/stderr"))
        if run.header.get("progress_regex") is None and (found := run.progress.look()) is not None:
            self._tell_progress(run, found)

    def _tell_progress(self, run: RunningInstance, progress: Progress) -> None:
        percent, message = progress
        run.sequence = max(run.sequence + 1, now_ms())  # above what an earlier agent has told
        said = {"t": "progress", "id": run.instance_id, "sequence": run.sequence}
        self._tell(pack({**said, "percent": round(percent), "message": message}))

    def _housekeep(self, now: float) -> None:
        self._pool.maintain(idle_s=self._settings.idle_worker_s)
        if self._log_file is not None:
            bound_log(self._log_file)
        busy = self._running or self._queued or self._scheduler is not None
        if not busy and now - self._idle_since >= self._settings.idle_exit_s:
            self._left = True
        self._check_home()
        if now >= self._prune_at:
            self._prune_at = now + _DAY_S / 24
            self._prune_sandboxes()

    def _check_home(self) -> None:
        """Make again what somebody removed of our folder; leave where that is impossible."""
        is_idle = not self._running and not self._queued and self._scheduler is None
        if is_idle and not self._home.exists():
            self._left = True  # nobody can ever find us again
            return
        trouble = None
        try:
            restored = self._home.restore()
            self._restore_journal()
        except HomeTaken:
            self._leave_to_another()
            return
        except HomeRemoved:
            if self._scheduler is None:
                self._leave_removed_home()
                return
            trouble = (
                f"the folder above {self._home.path} was removed: what runs goes on, and nothing is started; "
                "end the scheduler and start it anew, or make that folder again"
            )
        except OSError as error:
            trouble = f"{self._home.path} cannot be used: {error}"
        else:
            if restored:
                log(f"missing in {self._home.path}, made again: {', '.join(restored)}")
            if self._listener is not self._home.listener:
                self._loop.forget(self._listener)
                self._listener = self._home.listener
                self._loop.watch(self._listener, self._on_connect)
        if trouble != self._trouble:
            self._trouble = trouble
            log(trouble or f"{self._home.path} can be used again")
            self._tell(pack({"t": "trouble", "text": trouble}))

    def _restore_journal(self) -> None:
        """Write the ledger anew if it was removed, with the ends that were in logs which are gone, too."""
        self._ledger.restore()
        for instance_id, message in self._outbox.unwritten():
            [frame] = whole_frames(message)
            self._ledger.note(instance_id, frame.header, frame.tail)

    def _leave_to_another(self) -> None:
        """Go: the home is another agent's. What that one does not know of, it has reported as lost."""
        log(f"{self._home.path} is another agent's now: this one leaves")
        known = Ledger.read(self._folder)
        for run in self._running.values():
            if run.instance_id not in known:
                self._signals.append((run.worker, signal.SIGKILL))
        self._left = True

    def _leave_removed_home(self) -> None:
        """Go, for there is no home and no scheduler; what runs is ended, unless the home was only moved."""
        log(f"{self._home.path} was removed, and no scheduler is there: this agent leaves")
        if self._home.is_moved():
            self._left = True
        else:
            self._stop_all()

    def _prune_sandboxes(self) -> None:
        import shutil  # a tenth of the agent's start

        from cook_jupyter.worker.retention import RetentionClock

        retention = RetentionClock(f"{self._settings.home}/clock.json")
        retention.advance()
        longest_s = self._settings.sandbox_days * _DAY_S
        alive = {worker.name for worker in self._pool.workers()}
        for entry in _entries(self._sandboxes):
            with contextlib.suppress(OSError):
                age_s = retention.age_s(entry.stat().st_mtime)
                if entry.name.startswith("."):  # a worker's stock
                    if entry.name[1:] in alive or age_s < _DAY_S:
                        continue
                elif entry.name in self._running or age_s < longest_s:
                    continue
                shutil.rmtree(entry.path, ignore_errors=True)

    # --- after a crash ----------------------------------------------------------------------------

    def _recover(self) -> None:
        found = recovery.recover(self._folder)
        self._ledger = Ledger(self._folder, found.noted)
        recovery.remove_files(found.useless)
        for known in found.instances.values():
            if known.end is not None:
                self._recover_end(known)
            else:
                self._recover_run(known)

    def _recover_end(self, known: recovery.Known) -> None:
        assert known.end is not None  # noqa: S101 - the caller looked
        header, launch = known.end.header, known.launch
        end = end_of(header)
        cause = header.get("cause") or recovery.cause_of(end, known.doom, mem_mb=launch["mem_mb"])
        told = {**end.as_header(), "cause": cause, "sandbox": f"{self._sandboxes}/{end.instance_id}"}
        place = None if known.end.segment is None else (launch["worker"], segment_of(known.end.segment))
        self._outbox.keep(end.instance_id, pack(told, known.end.result), place)
        if not known.worker_alive:
            self._outbox.worker_gone(launch["worker"])

    def _recover_run(self, known: recovery.Known) -> None:
        launch = known.launch
        python = launch.get("python") or sys.executable
        worker = WorkerProcess(name=launch["worker"], pid=launch["pid"], mark=launch["mark"], python=python)
        worker.user, worker.serves = launch["user"], launch["instance_id"]
        worker.held_mb = launch["base_mb"]
        run = RunningInstance(launch, worker, begun=time.monotonic(), deadline=launch["until"])
        self._running[run.instance_id] = run
        if known.doom is not None:
            run.stop_cause, run.kill_at = known.doom, time.monotonic() + self._settings.grace_s
            self._signals.append((worker, signal.SIGTERM))
        self._pool.adopt(worker)

    def _on_unusable(self, python: str) -> None:
        """No workers of that interpreter: its calls run as the commands that they also are."""
        waiting = [order for queue in self._queues.pop(python, {}).values() for order in queue]
        if python != sys.executable:
            self._unusable.add(python)
        for order in waiting:
            if self._queued.pop(order.header["instance_id"], None) is None:
                continue
            if python == sys.executable:
                self._end(order.header, End(order.header["instance_id"], None, now_ms()), Cause.UNLAUNCHED)
            else:
                self._enqueue(order)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if it is not there."""
    try:
        return list(os.scandir(folder))
    except FileNotFoundError:
        return []
