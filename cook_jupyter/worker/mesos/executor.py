"""The Mesos executor: a supervisor behind Mesos' v1 executor API.

Lives here: the front end: events of the agent become requests to the supervisor, its reports become status
updates and framework messages; and when the executor ends.
Not here: running instances (`worker.supervisor`), the connection (`worker.mesos.agent_connection`), updates
that are not acknowledged yet (`worker.mesos.updates`), the scheduler's side (`clusters.mesos`).

One executor runs all instances of one user on one host, each a task of Mesos. It has no successor: Mesos
gives the tasks of a dead executor up. So whatever it started ends with it.

It exits

- when the agent tells it to (SHUTDOWN): after all ends are acknowledged, and within the grace period;
- when it was idle for long, or is idle and was released by the scheduler;
- when its lease is over (`worker.mesos.lease`);
- when no agent will take it back: after a disconnection without checkpoints, when the agent does not know its
  framework, or when another process has taken its place.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from cook_jupyter.worker import processes
from cook_jupyter.worker.agent_log import log
from cook_jupyter.worker.channel import SelectorLoop
from cook_jupyter.worker.frames import BrokenStream, Header, pack
from cook_jupyter.worker.home import JOURNAL
from cook_jupyter.worker.log_file import bound_log
from cook_jupyter.worker.mesos import messages
from cook_jupyter.worker.mesos.agent_connection import AgentConnection
from cook_jupyter.worker.mesos.lease import Lease
from cook_jupyter.worker.mesos.messages import ExecutorOptions
from cook_jupyter.worker.mesos.result_files import write_result
from cook_jupyter.worker.mesos.settings import MesosSettings
from cook_jupyter.worker.mesos.updates import PendingUpdate, Updates
from cook_jupyter.worker.sandbox import FOLDER
from cook_jupyter.worker.supervisor import Supervisor
from cook_jupyter.worker.task import EndReport

JsonObject = dict[str, Any]

PID_FILE = "executor.pid"  # in the sandbox: the process that was started last
_TICK_S = 1.0
_STOPPED_S = 2.0  # delay of a tick by which a process that was stopped, or its machine, is recognised
_HOUSEKEEPING_S = 5.0
_ACKNOWLEDGEMENT_TIMEOUT_S = 30.0
_REPLACED_WITHIN_S = 5.0  # between two disconnections
_BAD_REQUEST = 400


def run_executor(arguments: Sequence[str]) -> int:
    """Run the executor that an agent has started; return an exit code.

    Args:
        arguments: arguments of its command, from `ExecutorOptions.arguments`.
    """
    try:
        settings = MesosSettings.read(os.environ)
        options = ExecutorOptions.read(arguments)
    except ValueError as error:
        sys.stderr.write(f"mesos-executor: {error}\n")
        return 2
    processes.raise_file_limit()
    MesosExecutor(settings, options).run()
    return 0


class MesosExecutor:
    """An executor, the listener of its supervisor and of its connection to the agent.

    Args:
        settings: settings that the agent has made.
        options: options of the executor.
    """

    def __init__(self, settings: MesosSettings, options: ExecutorOptions) -> None:
        now = time.monotonic()
        self._settings = settings
        self._options = options
        self._lease = Lease(settings.recovery_timeout_s, now)
        self._updates = Updates(settings.executor_id)
        self._grace_s: dict[str, float] = {}  # of open instances, by their kill policy
        self._progress: dict[str, Header] = {}  # to be sent, by instance
        self._in_subscription: set[str] = set()  # updates that were sent with the last subscription
        self._subscribed_at = now
        self._disconnected_at = float("-inf")
        self._last_refusal = ""
        self._idle_since = self._next_tick = self._next_housekeeping = now
        self._is_released = False
        self._end_by: float | None = None  # since it was told to end
        self._exit_cause: str | None = None
        self._loop = SelectorLoop()
        self._connection = AgentConnection(
            self._loop,
            self,
            host=settings.host,
            port=settings.port,
            token=settings.token,
            max_pause_s=settings.backoff_max_s / 2,
        )
        self._connection.process_due(now)  # first of all: the agent waits for it
        self._write_pid_file()
        for folder in (JOURNAL, FOLDER):
            os.makedirs(f"{settings.sandbox}/{folder}", mode=0o700, exist_ok=True)
        self._supervisor = Supervisor(
            self._loop,
            self,
            home=settings.sandbox,
            grace_s=options.grace_s,
            idle_worker_s=options.idle_worker_s,
            sandbox_days=options.sandbox_days,
            tasks_survive=False,
        )

    def run(self) -> None:
        """Run until there is a reason to exit."""
        while self._exit_cause is None:
            self._loop.run_once(self._poll_timeout_s())
            now = time.monotonic()
            self._connection.process_due(now)
            if now >= self._next_tick:
                was_stopped = now >= self._next_tick + _STOPPED_S
                self._next_tick = now + _TICK_S
                self._tick(now, was_stopped=was_stopped)
            if now >= self._next_housekeeping:
                self._next_housekeeping = now + _HOUSEKEEPING_S
                bound_log(f"{self._settings.sandbox}/stderr")
                self._supervisor.maintain(now)
            self._supervisor.process_due(now)
            if self._exit_cause is None:
                self._exit_cause = self._cause_to_exit(now)
        log(f"the executor exits: {self._exit_cause}")
        self._connection.close()
        self._supervisor.close()  # whatever runs now is killed

    def _poll_timeout_s(self) -> float:
        """Return the seconds until the next timer is due."""
        until_tick_s = max(0.0, self._next_tick - time.monotonic())
        others_s = (self._supervisor.poll_timeout_s(), self._connection.poll_timeout_s())
        return min((until_tick_s, *(due_s for due_s in others_s if due_s is not None)))

    # --- from the agent -----------------------------------------------------------------------------------

    def subscription(self) -> JsonObject:
        """Return the call to subscribe with: all that the agent may not know."""
        pending = self._updates.pending()
        self._in_subscription = set(pending)
        return self._call(
            "SUBSCRIBE",
            {
                "unacknowledged_tasks": self._updates.tasks(),
                "unacknowledged_updates": [{"status": update.status} for update in pending.values()],
            },
        )

    def on_event(self, event: JsonObject) -> None:
        """Handle an event of the agent."""
        now = time.monotonic()
        match event.get("type"):
            case "SUBSCRIBED":
                self._on_subscribed(now)
            case "LAUNCH":
                self._lease.on_word(now)
                self._on_launch(event["launch"]["task"])
            case "KILL":
                self._lease.on_word(now)
                self._on_kill(event["kill"]["task_id"]["value"], event["kill"].get("kill_policy"))
            case "ACKNOWLEDGED":
                self._on_acknowledged(
                    event["acknowledged"]["task_id"]["value"], event["acknowledged"]["uuid"]
                )
            case "MESSAGE":
                self._on_message(event["message"]["data"], now)
            case "SHUTDOWN":
                self._end("the agent has told it to shut down", self._settings.shutdown_grace_s)
            case "ERROR":
                log(f"the agent reports: {event.get('error', {}).get('message')}")
            case "HEARTBEAT":
                pass  # every half an hour: useless
            case other:
                log(f"the agent has sent an unknown event: {str(other)[:40]!r}")

    def on_disconnected(self, cause: str) -> None:
        """Go on without an agent, unless it will not take this executor back."""
        now = time.monotonic()
        log(f"disconnected: {cause}")
        self._lease.on_agent(now, is_connected=False)
        if not self._settings.checkpoint:
            self._exit_cause = "disconnected, and the framework has no checkpoints"
        elif now - self._disconnected_at < _REPLACED_WITHIN_S and self._is_replaced():
            self._exit_cause = "another process runs as this executor"
        self._disconnected_at = now

    def on_refused(self, status: int, text: str) -> None:
        """Exit if the agent will never accept this executor; it may only have restarted."""
        refusal = f"{status} {text.strip()}"
        if refusal != self._last_refusal:
            self._last_refusal = refusal
            log(f"the agent does not subscribe this executor yet: {refusal}")
        if status == _BAD_REQUEST and "cannot be found" in text:
            self._exit_cause = f"the agent has forgotten it: {text.strip()}"

    def on_call_refused(self, call: JsonObject, status: int, text: str) -> None:
        """Report an instance as failed if the agent refuses its update; otherwise subscribe again."""
        log(f"the agent has answered {call['type']} with {status} {text.strip()}")
        if status != _BAD_REQUEST:
            self._connection.reconnect(f"the agent has answered with {status}")
        elif call["type"] == "UPDATE":
            status_sent = call["update"]["status"]
            task_id = status_sent["task_id"]["value"]
            update = self._updates.settle(task_id, status_sent["uuid"])
            if update is None or not update.is_end:
                return
            if "data" in update.status:
                self._fail(task_id, f"the agent has refused the update of its end: {text.strip()}")
            else:
                self._supervisor.acknowledge([task_id])

    def _on_subscribed(self, now: float) -> None:
        self._lease.on_agent(now, is_connected=True)
        self._subscribed_at = now
        self._last_refusal = ""
        for uuid, update in self._updates.pending().items():
            if uuid not in self._in_subscription:
                self._send_update(update)
        self._send_message(_hello())

    def _on_launch(self, task: JsonObject) -> None:
        task_id: str = task["task_id"]["value"]
        self._updates.add_task(task_id, task)
        self._idle_since = time.monotonic()
        try:
            frame = messages.read_data(task.get("data", ""), messages.TASK_DATA)
            if frame.header["instance_id"] != task_id:
                raise BrokenStream("its data are those of another instance")
        except BrokenStream as error:
            self._fail(task_id, f"the task cannot be read: {error}")
            return
        self._grace_s[task_id] = _grace_s(task.get("kill_policy"), self._options.grace_s)
        self._supervisor.launch(frame)

    def _on_kill(self, task_id: str, kill_policy: JsonObject | None) -> None:
        if task_id in self._grace_s:  # otherwise it has ended, which the agent will know soon
            self._supervisor.kill(task_id, grace_s=_grace_s(kill_policy, self._grace_s[task_id]))

    def _on_acknowledged(self, task_id: str, uuid: str) -> None:
        update = self._updates.settle(task_id, uuid)
        if update is not None and update.is_end:
            self._supervisor.acknowledge([task_id])
            self._idle_since = time.monotonic()

    def _on_message(self, data: str, now: float) -> None:
        try:
            frame = messages.read_data(data, messages.TO_EXECUTOR)
        except BrokenStream as error:
            log(f"a message of the scheduler cannot be read: {error}")
            return
        if frame.header["t"] == "ping":
            self._lease.on_word(now, lease_s=frame.header["lease_s"])
            ended = [update.task_id for update in self._updates.pending().values() if update.is_end]
            open_ids = [header["instance_id"] for header in self._supervisor.open_launches()]
            sequence = frame.header["sequence"]
            self._send_message({"t": "pong", "sequence": sequence, "open": open_ids, "ended": ended})
        else:
            self._lease.on_word(now)
            self._is_released = True

    # --- to the agent -------------------------------------------------------------------------------------

    def on_running(self, instance_id: str, sandbox: str, at_ms: int) -> None:
        """Report that an instance runs."""
        data = messages.running_data(instance_id, sandbox, at_ms)
        self._send_update(self._updates.add(instance_id, messages.TASK_RUNNING, is_end=False, data=data))

    def on_progress(self, instance_id: str, sequence: int, percent: int, message: str | None) -> None:
        """Report progress, soon."""
        header = {"t": "progress", "id": instance_id, "sequence": sequence}
        self._progress[instance_id] = {**header, "percent": percent, "message": message}

    def on_end(self, report: EndReport) -> None:
        """Report an end, whose result is in a file if it is large."""
        instance_id = report.end.instance_id
        self._grace_s.pop(instance_id, None)
        if (progress := self._progress.pop(instance_id, None)) is not None:
            self._send_message(progress)
        update = self._updates.add(
            instance_id,
            messages.task_state(report.cause),
            is_end=True,
            data=messages.end_data(report, write_result(report)),
            message=_summary(report),
        )
        self._send_update(update)

    def _fail(self, task_id: str, message: str) -> None:
        """Report a task as failed, without data."""
        log(f"{task_id}: {message}")
        self._send_update(self._updates.add(task_id, messages.TASK_FAILED, is_end=True, message=message))

    def _send_update(self, update: PendingUpdate) -> None:
        self._connection.send(self._call("UPDATE", {"status": update.status}))

    def _send_message(self, header: Header) -> None:
        self._connection.send(self._call("MESSAGE", {"data": messages.encode_data(pack(header))}))

    def _call(self, kind: str, body: JsonObject) -> JsonObject:
        return {
            "type": kind,
            "framework_id": {"value": self._settings.framework_id},
            "executor_id": {"value": self._settings.executor_id},
            kind.lower(): body,
        }

    # --- its own end --------------------------------------------------------------------------------------

    def _tick(self, now: float, *, was_stopped: bool) -> None:
        """Do what is due every second.

        Args:
            now: monotonic time.
            was_stopped: whether this process was stopped; what was sent meanwhile is read before the lease
                is judged.
        """
        progress, self._progress = self._progress, {}
        for header in progress.values():
            self._send_message(header)
        oldest = next(iter(self._updates.pending().values()), None)
        if oldest is not None and self._connection.is_subscribed:
            waiting_s = now - max(oldest.made_at, self._subscribed_at)
            if waiting_s >= _ACKNOWLEDGEMENT_TIMEOUT_S:
                self._connection.reconnect(f"nothing acknowledged for {waiting_s:.0f} s")
        if self._end_by is None and not was_stopped and (cause := self._lease.over(now)) is not None:
            self._end(cause, self._settings.shutdown_grace_s)

    def _end(self, cause: str, grace_s: float) -> None:
        """Stop all instances, report their ends, and exit.

        Args:
            cause: why, for the log.
            grace_s: time until this process must be gone.
        """
        if self._end_by is not None:
            return
        log(f"the executor ends: {cause}")
        self._end_by = time.monotonic() + max(grace_s - 1.0, grace_s / 2)
        longest_s = max(grace_s - 2.0, grace_s / 4)  # which leaves time for reports
        grace_s_by_instance = dict(self._grace_s)
        self._supervisor.stop(grace_s=longest_s)
        for instance_id, instance_grace_s in grace_s_by_instance.items():
            self._supervisor.kill(instance_id, grace_s=min(instance_grace_s, longest_s))

    def _cause_to_exit(self, now: float) -> str | None:
        """Return why to exit now; None to go on."""
        is_done = self._supervisor.is_idle and not self._updates
        if self._end_by is not None:
            if is_done:
                return "all tasks have ended"
            return "the grace period is over" if now >= self._end_by else None
        if not is_done:
            return None
        if self._is_released:
            return "the scheduler has released it"
        if 0 < self._options.idle_exit_s <= now - self._idle_since:
            return f"it was idle for {self._options.idle_exit_s:g} s"
        return None

    def _write_pid_file(self) -> None:
        with open(f"{self._settings.sandbox}/{PID_FILE}", "w", encoding="ascii") as file:
            file.write(f"{os.getpid()} {processes.process_identity(os.getpid())}\n")

    def _is_replaced(self) -> bool:
        """Return whether another living process was started as this executor."""
        try:
            with open(f"{self._settings.sandbox}/{PID_FILE}", encoding="ascii", errors="replace") as file:
                pid, identity = file.read(1024).split()
            return int(pid) != os.getpid() and processes.is_alive(int(pid), identity)
        except (OSError, ValueError, OverflowError):
            return False


def _grace_s(kill_policy: JsonObject | None, default_s: float) -> float:
    """Return the grace period of a kill policy, or the default if it has none."""
    nanoseconds = (kill_policy or {}).get("grace_period", {}).get("nanoseconds")
    return default_s if nanoseconds is None else max(0.0, int(nanoseconds) / 1e9)


def _summary(report: EndReport) -> str:
    """Return what Mesos shows of an end."""
    exit_code = report.end.exit_code
    if report.end.message is not None:
        return f"{report.cause}: {report.end.message}"
    return report.cause if exit_code in (0, None) else f"{report.cause}, exit code {exit_code}"


def _hello() -> Header:
    """Return the message with what this host has."""
    from cook_jupyter.payload.versions import fingerprint  # not before the subscription

    return {
        "t": "hello",
        "version": messages.VERSION,
        "python": sys.executable,
        "host": os.uname().nodename,
        "packages": fingerprint(),
    }
