"""Watch a cell that runs as a job from the notebook, until it ends.

Lives here: following its output, showing why it waits, killing it on Ctrl-C, applying its outcome.
Not here: the job itself (`notebook.cell_job`), sending it (`executor`).
"""

import codecs
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import CookError, NotFound, ResultLost, SchedulerUnreachable
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.notebook import units
from cook_jupyter.notebook.cell_job import CellOutcome
from cook_jupyter.notebook.job_views import JobView
from cook_jupyter.notebook.rendering import MARKS
from cook_jupyter.notebook.screen import Screen, StateLine
from cook_jupyter.payload import pickling

QUICK_RUN_S = 0.15  # a cell that ends within this time needs no log followers
STATE_DELAY_S = 1.0  # no state line before
POLL_INTERVAL_S = 0.5
WHY_INTERVAL_S = 4.0
LONG_POLL_S = 10.0
DRAIN_TIMEOUT_S = 5.0
OUTPUT_LIMIT_BYTES = 1024 * 1024  # of each stream and instance; `%cook logs` shows all of it
TRACEBACK_HOLD_S = 1.0

_TRACEBACK = "Traceback (most recent call last):"

STREAMS = ("stdout", "stderr")


class NotebookConnection(Protocol):
    """The connection of a notebook to its scheduler, which may be restarted."""

    @property
    def client(self) -> JobClient:
        """Client of the scheduler, as last found."""

    def reconnect(self) -> JobClient:
        """Find the scheduler again, and return a client of it."""


@dataclass(frozen=True, slots=True)
class OutputChunk:
    """A piece of a job's output."""

    stream: str
    text: str


class LogFollowers:
    """Threads that read the output of an instance, one per stream.

    Args:
        client: client of the scheduler.
        instance: uuid of the instance.
        offsets: end of what was read of each stream; updated while reading.
        on_output: callback for each piece of output.
    """

    def __init__(
        self,
        client: JobClient,
        instance: str,
        offsets: dict[str, int],
        on_output: Callable[[OutputChunk], None],
    ) -> None:
        self.instance = instance
        self.have_failed = False  # whether a stream could not be read to its end
        self._client = client
        self._offsets = offsets
        self._on_output = on_output
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._read_stream, args=(stream,), name=f"cook-{stream}", daemon=True)
            for stream in STREAMS
        ]
        for thread in self._threads:
            thread.start()

    def end(self, timeout_s: float) -> None:
        """Wait until everything was read, or the timeout has passed."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._stop.set()

    def _read_stream(self, stream: str) -> None:
        offsets, stop = self._offsets, self._stop
        if not read_log(
            self._client, self.instance, stream, offsets, self._on_output, stop=stop, wait_s=LONG_POLL_S
        ):
            self.have_failed = True


def read_log(
    client: JobClient,
    instance: str,
    stream: str,
    offsets: dict[str, int],
    on_output: Callable[[OutputChunk], None],
    *,
    stop: threading.Event | None = None,
    wait_s: float = 0.0,
) -> bool:
    """Read a stream from its offset to its present end, or with `wait_s` until the instance ends.

    Returns:
        False if it cannot be read: an original Cook, a removed sandbox, a scheduler that restarts.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    if offsets.get(stream, 0) > OUTPUT_LIMIT_BYTES:
        return True
    try:
        while stop is None or not stop.is_set():
            piece = client.logs(instance, stream=stream, offset=offsets.get(stream, 0), wait_s=wait_s)
            offsets[stream] = piece.next_offset
            if text := decoder.decode(piece.data):
                on_output(OutputChunk(stream, text))
            if piece.next_offset > OUTPUT_LIMIT_BYTES:
                option = " --stderr" if stream == "stderr" else ""
                more = f"more than 1 MB on {stream}; all of it with: %cook logs last{option}"
                on_output(OutputChunk(stream, f"\n[{more}]\n"))
                return True
            if piece.next_offset >= piece.size and (piece.ended or not wait_s):
                return True
    except CookError:
        return False
    return True


class CellRun:
    """A run of a cell, from its submission to its end.

    Args:
        future: future of the job.
        connection: connection to the scheduler, which may be restarted meanwhile.
        screen: output of the cell.
    """

    def __init__(self, future: CookFuture, connection: NotebookConnection, screen: Screen) -> None:
        self._future = future
        self._connection = connection
        self._screen = screen
        self._output: queue.SimpleQueue[OutputChunk | None] = queue.SimpleQueue()
        self._followers: list[LogFollowers] = []
        self._offsets: dict[str, dict[str, int]] = {}  # by instance, by stream
        self._started_at = time.monotonic()
        self._sentence = ""
        self._why_asked_at = -WHY_INTERVAL_S
        self._held_traceback = ""  # the end of stderr, from a traceback on
        self._hold_until = 0.0

    def watch(self) -> None:
        """Wait until the job has ended, in whatever way, and show all its output.

        Raises:
            KeyboardInterrupt: the user interrupted the wait; the job continues.
        """
        self._future.add_done_callback(lambda _: self._output.put(None))
        self._drain(QUICK_RUN_S)
        pause_s = POLL_INTERVAL_S / 4
        while not self._future.done():
            self._update()
            self._drain(pause_s)
            pause_s = min(POLL_INTERVAL_S, pause_s * 1.5)
        self._finish_output()

    def last_line(self) -> StateLine:
        """Return the state line for the end of the job."""
        try:
            return state_line(JobView.at_now(self._connection.client.job(self._future.key)))
        except CookError:
            lasted = units.duration(time.monotonic() - self._started_at)
            return StateLine(MARKS.get(self._future.status, MARKS["killed"]), f"{self._short} after {lasted}")

    def _drain(self, seconds: float) -> None:
        """Show the output of the next `seconds`, or until the job ends."""
        deadline = time.monotonic() + seconds
        while (remaining_s := deadline - time.monotonic()) > 0:
            try:
                chunk = self._output.get(timeout=remaining_s)
            except queue.Empty:
                return
            if chunk is None:
                return
            self._write(chunk)

    def _write(self, chunk: OutputChunk) -> None:
        """Show output; a traceback on stderr is held back: the notebook may show it as the job's error."""
        text = chunk.text
        if chunk.stream == "stderr" and (self._held_traceback or _TRACEBACK in text):
            if not self._held_traceback:
                self._hold_until = time.monotonic() + TRACEBACK_HOLD_S
                begin = text.index(_TRACEBACK)
                text, self._held_traceback = text[:begin], text[begin:]
            else:
                text, self._held_traceback = "", self._held_traceback + text
        if text:
            self._screen.write(chunk.stream, text)

    def _show_held_traceback(self) -> None:
        text, self._held_traceback = self._held_traceback, ""
        if text:
            self._screen.write("stderr", text)

    def _update(self) -> None:
        """Poll the job, follow a new instance, and show the state line after a second."""
        if time.monotonic() > self._hold_until:
            self._show_held_traceback()
        key = self._future.key
        try:
            client = self._connection.client
            job = JobView.at_now(client.job(key))
            self._follow_latest(client, job)
            if time.monotonic() - self._started_at < STATE_DELAY_S:
                return
            if job.state == "waiting" and time.monotonic() - self._why_asked_at > WHY_INTERVAL_S:
                self._why_asked_at = time.monotonic()
                self._sentence = " ".join(client.why(key).sentences[:2])
        except NotFound:
            return  # it has not been submitted yet
        except SchedulerUnreachable:
            self._screen.show_state(
                StateLine(MARKS["waiting"], f"{self._short}: the scheduler does not answer")
            )
            with suppress(CookError):
                self._connection.reconnect()
            return
        self._screen.show_state(state_line(job, self._sentence))

    def _follow_latest(self, client: JobClient, job: JobView) -> None:
        """Follow the latest instance, unless it is followed already."""
        if job.latest is None:
            return
        instance = job.latest.uuid
        if any(f.instance == instance and not f.have_failed for f in self._followers):
            return
        for followers in self._followers:  # one stream may still be read: not twice
            followers.end(0.0)
        if instance not in self._offsets and any(any(offsets.values()) for offsets in self._offsets.values()):
            # Some of its output may have been shown before.
            self._output.put(OutputChunk("stderr", f"[{restart_reason(job)}]\n"))
        offsets = self._offsets.setdefault(instance, {})
        self._followers.append(LogFollowers(client, instance, offsets, self._output.put))

    def _finish_output(self) -> None:
        for followers in self._followers:
            followers.end(DRAIN_TIMEOUT_S)
        offsets = next(reversed(self._offsets.values()), {})
        for stream in STREAMS:  # what the followers have not read
            read_log(self._connection.client, self._future.key, stream, offsets, self._output.put)
        while not self._output.empty():
            chunk = self._output.get()
            if chunk is not None:
                self._write(chunk)
        if self._future.cancelled() or self._future.exception() is None:
            self._show_held_traceback()  # otherwise the notebook shows this traceback anyway

    @property
    def _short(self) -> str:
        return f"{self._future.name} <{self._future.key[:8]}>"


def state_line(job: JobView, sentence: str = "") -> StateLine:
    """Return the state of a job as one line; `sentence` says why it waits."""
    text = f"{job.name} <{job.uuid[:8]}>"
    if job.state == "waiting":
        note = f" · {job.note}" if job.note else ""
        return StateLine(job.mark, f"{text} for {units.duration(job.waited_s)}{note}. {sentence}")
    if job.run_time_s is not None:
        text += f" {'for' if job.state == 'running' else 'after'} {units.duration(job.run_time_s)}"
        text += f" on {job.host}" if job.host else ""
        text += f" · {job.request_text}"
    return StateLine(job.mark, f"{text} · {job.note}" if job.note else text)


def restart_reason(job: JobView) -> str:
    """Return why the output of a job starts again: how the instance before the latest ended."""
    previous = job.instances[-2] if len(job.instances) > 1 else None
    if previous is not None and previous.preempted:
        return "preempted for a user further below their share; it restarts, at no cost of retries"
    why = "" if previous is None else previous.reason_text.lower()
    return f"{why}; it restarts" if why else "it restarts"


def apply_outcome(outcome: CellOutcome, namespace: dict[str, Any], screen: Screen) -> Any:
    """Show what a cell displayed, set the names that it sent back, and return its value.

    Raises:
        ResultLost: a requested name could not be sent back; the others are set.
    """
    for bundle in outcome.displays:
        screen.show(bundle)
    problems = []
    for name, packed in outcome.out.items():
        if packed.frames is None:
            problems.append(f"{name} {packed.problem}")
        else:
            namespace[name] = pickling.from_frames(packed.frames, keep_classes=True)
    if problems:
        raise ResultLost(f"the cell ran, but {'; '.join(problems)}")
    if outcome.value is None:
        return None
    if outcome.value.frames is not None:
        return pickling.from_frames(outcome.value.frames, keep_classes=True)
    if outcome.shown is not None:
        screen.show(outcome.shown)
    screen.write("stderr", f"The value {outcome.value.problem}; the job's own rendering is shown instead.\n")
    return None
