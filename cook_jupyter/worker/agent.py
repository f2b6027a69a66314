"""The node agent: a supervisor behind a Unix socket, which outlives the scheduler that it serves.

Lives here: the front end: who may connect, what the newest scheduler asks for and is told, when the agent
leaves, and looking after its folder.
Not here: running instances (`worker.supervisor`), the folder itself (`worker.home`), the scheduler's end of
the connection (`clusters.local`).

The newest scheduler that says hello is the one that is served. Each connection speaks for what it serves: the
scheduler's is the one that showed the secret of this home. A message that is not as `worker.protocol` has it
ends its connection, and nothing else.

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

_MAX_UNGREETED = 16  # connections that have not shown the secret; the oldest ones make way
_MAX_GREETING_BYTES = 4096


class AgentSettings(NamedTuple):
    """Timeouts and home directory of an agent.

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


class Agent:
    """One agent, the listener of its supervisor. Make it while holding the lock on its home.

    Args:
        settings: timeouts and home directory of the agent.
        home: the folder of the agent, which holds its lock.
        log_file: the file to which the agent and its workers write, kept small by the agent; None for none.
    """

    def __init__(self, settings: AgentSettings, home: AgentHome, log_file: str | None = None) -> None:
        self._settings = settings
        self._home = home
        self._log_file = log_file
        self._trouble: str | None = None  # why nothing can be launched here
        self._scheduler: Channel | None = None
        self._ungreeted: list[Channel] = []  # oldest first
        self._left = False
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
        while not self._left:
            self._loop.run_once(self._poll_timeout_s())
            now = time.monotonic()
            if now >= self._housekeeping_at:
                self._housekeeping_at = now + self._settings.housekeeping_s
                self._housekeep(now)
            self._supervisor.process_due(now)
            if self._supervisor.is_stopped:
                self._left = True
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
                largest=_MAX_GREETING_BYTES,
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
            self._left = True

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
        ends = list(self._supervisor.unacknowledged_ends())
        known = {
            "version": VERSION,
            "pid": os.getpid(),
            "running": [_known_instance(header) for header in self._supervisor.open_launches()],
            "ended": [report.end.instance_id for report in ends],
        }
        channel.send(pack({"t": "known", **known}))
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
        """Tell the scheduler, if there is one, that an instance runs."""
        if self._scheduler is not None:
            self._scheduler.send(
                pack({"t": "running", "id": instance_id, "sandbox": sandbox, "at_ms": at_ms})
            )

    def on_progress(self, instance_id: str, sequence: int, percent: int, message: str | None) -> None:
        """Tell the scheduler, if there is one, of progress."""
        if self._scheduler is not None:
            header = {"t": "progress", "id": instance_id, "sequence": sequence}
            self._scheduler.send(pack({**header, "percent": percent, "message": message}))

    def on_end(self, report: EndReport) -> None:
        """Tell the scheduler of an end; if there is none, the next one is told when it greets."""
        if self._scheduler is not None:
            self._scheduler.send(report.packed())
        self._idle_since = time.monotonic()
        if report.cause == Cause.UNLAUNCHED:  # something of the folder may be missing
            self._housekeeping_at = self._idle_since

    # --- the agent's folder -------------------------------------------------------------------------------

    def _housekeep(self, now: float) -> None:
        if self._log_file is not None:
            bound_log(self._log_file)
        if self._is_unused and now - self._idle_since >= self._settings.idle_exit_s:
            self._left = True
        self._check_home()
        self._supervisor.maintain(now)

    @property
    def _is_unused(self) -> bool:
        """Whether there is neither work nor a scheduler."""
        return self._scheduler is None and self._supervisor.is_idle

    def _check_home(self) -> None:
        """Make again what somebody removed of the agent's folder; leave where that is impossible."""
        if self._is_unused and not self._home.exists():
            self._left = True  # nobody can ever find this agent again
            return
        trouble = None
        try:
            restored = self._home.restore()
            self._supervisor.restore_journal()
        except HomeTaken:
            log(f"{self._home.path} is another agent's now: this one leaves")
            self._supervisor.kill_unrecorded()
            self._left = True
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
            if self._scheduler is not None:
                self._scheduler.send(pack({"t": "trouble", "text": trouble}))

    def _leave_removed_home(self) -> None:
        """Leave, as there is neither home nor scheduler; stop what runs, unless the home was only moved."""
        log(f"{self._home.path} was removed, and no scheduler is there: this agent leaves")
        if self._home.is_moved():
            self._left = True
        else:
            self._supervisor.stop()


def _known_instance(header: Header) -> Header:
    """Return what a scheduler has to know of an instance that it may not have launched."""
    return {
        "id": header["instance_id"],
        "cpus": header["cpus"],
        "mem_mb": header["mem_mb"],
        "gpus": header.get("gpus", 0.0),
        "ports": header.get("ports", ()),
    }
