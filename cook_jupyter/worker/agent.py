"""The node agent: a supervisor behind a Unix socket, which outlives the scheduler that it serves.

Lives here: the front end: which connections are accepted, the messages of the newest scheduler, when the
agent exits, and maintenance of its home directory.
Not here: running instances (`worker.supervisor`), the home directory itself (`worker.home`), the scheduler's
side of the connection (`clusters.local`).

The agent serves the newest scheduler that has sent hello with the secret of this home. A message that does
not match `worker.protocol` ends its own connection, and nothing else.

Messages (see `worker.task` for tasks and ends; `id` is that of an instance):

    to the agent    hello {secret}     answered with all open instances, and all unacknowledged ends
                    launch, kill {id}, ack {ids}
                    stop               stop all instances, report their ends, and exit
                    leave              exit; instances keep running, and the next agent finds them
    from the agent  known {version, pid, running: [{id, cpus, mem_mb, gpus, ports}], ended: [id]}
                    running {id, sandbox, at_ms}, end {..., cause, sandbox} + result
                    progress {id, sequence, percent, message}
                    replaced           another scheduler has sent hello
                    refused {why}      the secret was wrong; the connection is closed
                    trouble {text}     why nothing can be launched here; null when that is over
"""

import contextlib
import os
import time
from typing import NamedTuple

from cook_jupyter.worker import protocol
from cook_jupyter.worker.address import SECRET, VERSION
from cook_jupyter.worker.agent_log import log
from cook_jupyter.worker.channel import Channel, SelectorLoop
from cook_jupyter.worker.frames import Frame, Header, pack
from cook_jupyter.worker.home import AgentHome, HomeRemoved, HomeTaken
from cook_jupyter.worker.log_file import bound_log
from cook_jupyter.worker.supervisor import Supervisor
from cook_jupyter.worker.task import Cause, EndReport

_MAX_UNGREETED = 16  # connections that have not sent the secret; the oldest are closed
_MAX_GREETING_BYTES = 4096


class AgentSettings(NamedTuple):
    """Timeouts and home directory of an agent.

    Attributes:
        home: home directory of the agent.
        grace_s: time between SIGTERM and SIGKILL.
        idle_exit_s: time without a scheduler and without work after which the agent exits.
        idle_worker_s: time without work after which a worker exits.
        sandbox_days: age in days at which unchanged sandboxes are removed.
        housekeeping_s: interval of checks for changes without an event, such as removed files.
    """

    home: str
    grace_s: float = 5.0
    idle_exit_s: float = 3600.0
    idle_worker_s: float = 60.0
    sandbox_days: float = 7.0
    housekeeping_s: float = 5.0


class Agent:
    """A node agent, the listener of its supervisor. Create it while holding the lock on its home.

    Args:
        settings: timeouts and home directory of the agent.
        home: the home directory with its lock.
        log_file: log of the agent and its workers, whose size the agent limits; None for none.
    """

    def __init__(self, settings: AgentSettings, home: AgentHome, log_file: str | None = None) -> None:
        self._settings = settings
        self._home = home
        self._log_file = log_file
        self._trouble: str | None = None  # why nothing can be launched here
        self._scheduler: Channel | None = None
        self._ungreeted: list[Channel] = []  # oldest first
        self._is_leaving = False
        self._housekeeping_at = self._idle_since = time.monotonic()
        self._listener = home.listener
        self._loop = SelectorLoop()
        self._supervisor = Supervisor(
            self._loop,
            self,
            home=settings.home,
            grace_s=settings.grace_s,
            idle_worker_s=settings.idle_worker_s,
            sandbox_days=settings.sandbox_days,
        )
        self._loop.watch(self._listener, self._on_connect)

    def run(self) -> None:
        """Run until stopped, or idle for `idle_exit_s`."""
        while not self._is_leaving:
            self._loop.run_once(self._poll_timeout_s())
            now = time.monotonic()
            if now >= self._housekeeping_at:
                self._housekeeping_at = now + self._settings.housekeeping_s
                self._housekeep(now)
            self._supervisor.process_due(now)
            if self._supervisor.is_stopped:
                self._is_leaving = True
        self._loop.flush()
        self._supervisor.close()

    def _poll_timeout_s(self) -> float:
        """Return the seconds until the next timer is due."""
        until_housekeeping_s = max(0.0, self._housekeeping_at - time.monotonic())
        until_due_s = self._supervisor.poll_timeout_s()
        return until_housekeeping_s if until_due_s is None else min(until_due_s, until_housekeeping_s)

    # --- from the scheduler -------------------------------------------------------------------------------

    def _on_connect(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            channel = Channel(
                self._loop,
                sock,
                on_frame=lambda frame: self._on_frame(channel, frame),
                on_end=lambda: self._on_scheduler_gone(channel),
                max_bytes=_MAX_GREETING_BYTES,
            )
            self._ungreeted.append(channel)
            if len(self._ungreeted) > _MAX_UNGREETED:
                self._ungreeted.pop(0).close()

    def _on_frame(self, channel: Channel, frame: Frame) -> None:
        is_greeted = channel is self._scheduler
        kind = protocol.require(frame.header, protocol.FROM_SCHEDULER if is_greeted else protocol.GREETING)
        if kind == "hello":
            if is_greeted or self._admit(channel, frame.header["secret"]):
                self._greet(channel)
        elif kind == "launch":
            self._supervisor.launch(frame)
        elif kind == "ack":
            self._supervisor.acknowledge(frame.header["ids"])
        elif kind == "kill":
            self._supervisor.kill(frame.header["id"])
        elif kind == "stop":
            self._supervisor.stop()
        elif kind == "leave":
            self._is_leaving = True

    def _admit(self, channel: Channel, secret: str) -> bool:
        """Return whether a connection has sent the secret; otherwise close it."""
        from hmac import compare_digest  # rarely needed, and would delay the agent's start

        self._ungreeted.remove(channel)
        if compare_digest(secret.encode("utf-8", "replace"), self._home.secret.encode()):
            channel.trust()
            return True
        log("a connection was refused: it did not send the secret of this home")
        channel.send(pack({"t": "refused", "why": f"the secret sent is not the one in {SECRET}"}))
        channel.flush()
        channel.close()
        return False

    def _greet(self, channel: Channel) -> None:
        previous, self._scheduler = self._scheduler, channel
        if previous is not None and previous is not channel:
            previous.send(pack({"t": "replaced"}))
            previous.flush()
            previous.close()
        ends = list(self._supervisor.unacknowledged_ends())
        state = {
            "version": VERSION,
            "pid": os.getpid(),
            "running": [_instance_summary(header) for header in self._supervisor.open_launches()],
            "ended": [report.end.instance_id for report in ends],
        }
        channel.send(pack({"t": "known", **state}))
        for report in ends:
            channel.send(report.packed())
        if self._trouble is not None:
            channel.send(pack({"t": "trouble", "text": self._trouble}))

    def _on_scheduler_gone(self, channel: Channel) -> None:
        if channel in self._ungreeted:
            self._ungreeted.remove(channel)
        if channel is self._scheduler:
            self._scheduler = None
            self._idle_since = time.monotonic()

    # --- to the scheduler ---------------------------------------------------------------------------------

    def on_running(self, instance_id: str, sandbox: str, at_ms: int) -> None:
        """Report to the scheduler, if there is one, that an instance runs."""
        if self._scheduler is not None:
            self._scheduler.send(
                pack({"t": "running", "id": instance_id, "sandbox": sandbox, "at_ms": at_ms})
            )

    def on_progress(self, instance_id: str, sequence: int, percent: int, message: str | None) -> None:
        """Report progress to the scheduler, if there is one."""
        if self._scheduler is not None:
            header = {"t": "progress", "id": instance_id, "sequence": sequence}
            self._scheduler.send(pack({**header, "percent": percent, "message": message}))

    def on_end(self, report: EndReport) -> None:
        """Report an end to the scheduler; if there is none, the next one gets it after its hello."""
        if self._scheduler is not None:
            self._scheduler.send(report.packed())
        self._idle_since = time.monotonic()
        if report.cause == Cause.UNLAUNCHED:  # something may be missing from the home directory
            self._housekeeping_at = self._idle_since

    # --- the agent's home directory -----------------------------------------------------------------------

    def _housekeep(self, now: float) -> None:
        if self._log_file is not None:
            bound_log(self._log_file)
        if self._is_unused and now - self._idle_since >= self._settings.idle_exit_s:
            self._is_leaving = True
        self._check_home()
        self._supervisor.maintain(now)

    @property
    def _is_unused(self) -> bool:
        """Whether there is no scheduler, and no instance is running or waiting."""
        return self._scheduler is None and self._supervisor.is_idle

    def _check_home(self) -> None:
        """Restore what was removed from the home directory; exit if that is impossible."""
        if self._is_unused and not self._home.exists():
            self._is_leaving = True  # nothing can ever find this agent again
            return
        trouble = None
        try:
            restored = self._home.restore()
            self._supervisor.restore_journal()
        except HomeTaken:
            log(f"{self._home.path} now belongs to another agent: this one exits")
            self._supervisor.kill_unrecorded()
            self._is_leaving = True
            return
        except HomeRemoved:
            if self._scheduler is None:
                self._leave_removed_home()
                return
            trouble = (
                f"the directory above {self._home.path} was removed: instances keep running, but none is "
                "started; stop the scheduler and start it again, or restore that directory"
            )
        except OSError as error:
            trouble = f"{self._home.path} cannot be used: {error}"
        else:
            if restored:
                log(f"missing in {self._home.path}, restored: {', '.join(restored)}")
            if self._listener is not self._home.listener:
                self._loop.forget(self._listener)
                self._listener = self._home.listener
                self._loop.watch(self._listener, self._on_connect)
        if trouble != self._trouble:
            self._trouble = trouble
            log(trouble or f"{self._home.path} can be used again")
            if self._scheduler is not None:
                self._scheduler.send(pack({"t": "trouble", "text": trouble}))

    def _leave_removed_home(self) -> None:
        """Exit, as there is neither home nor scheduler; stop the instances unless the home was only moved."""
        log(f"{self._home.path} was removed, and no scheduler is connected: this agent exits")
        if self._home.is_moved():
            self._is_leaving = True
        else:
            self._supervisor.stop()


def _instance_summary(header: Header) -> Header:
    """Return what a scheduler needs of an instance that it may not have launched."""
    return {
        "id": header["instance_id"],
        "cpus": header["cpus"],
        "mem_mb": header["mem_mb"],
        "gpus": header.get("gpus", 0.0),
        "ports": header.get("ports", ()),
    }
