"""A cell that runs as a job, watched from the notebook until it ends.

Lives here: following its output, saying why it waits, killing it on Ctrl-C, taking its results in.
Not here: what it is on the host (`notebook.cell_job`), how it is sent (`executor`).
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

QUICK_S = 0.15  # what ends within this needs no followers
SILENT_S = 1.0  # no line of state before
LOOK_EVERY_S = 0.5
ASK_WHY_EVERY_S = 4.0
LONG_POLL_S = 10.0
LAST_WORDS_S = 5.0
OUTPUT_LIMIT_BYTES = 1024 * 1024  # of each stream and instance; the rest is in `%cook logs`

HELD_S = 1.0

_TRACEBACK = "Traceback (most recent call last):"

STREAMS = ("stdout", "stderr")


class Schedulers(Protocol):
    """Where a run finds its scheduler."""

    @property
    def client(self) -> JobClient:
        """The scheduler as last found."""

    def find_again(self) -> JobClient:
        """Find it anew."""


@dataclass(frozen=True, slots=True)
class OutputChunk:
    """Something that the job wrote."""

    stream: str
    text: str


class LogFollowers:
    """Threads that read what an instance writes, one per stream, and pass it on.

    Args:
        client: the scheduler.
        instance: the uuid of the instance.
        offsets: how far each stream was read before; kept up to date.
        hear: called with each piece.
    """

    def __init__(
        self, client: JobClient, instance: str, offsets: dict[str, int], hear: Callable[[OutputChunk], None]
    ) -> None:
        self.instance = instance
        self.are_broken = False  # one of them could not go on
        self._client = client
        self._offsets = offsets
        self._hear = hear
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(stream,), name=f"cook-{stream}", daemon=True)
            for stream in STREAMS
        ]
        for thread in self._threads:
            thread.start()

    def end(self, patience_s: float) -> None:
        """Wait until all was read, but not for ever."""
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._stop.set()

    def _follow(self, stream: str) -> None:
        read, stop = self._offsets, self._stop
        if not read_log(self._client, self.instance, stream, read, self._hear, stop=stop, wait_s=LONG_POLL_S):
            self.are_broken = True


def read_log(
    client: JobClient,
    instance: str,
    stream: str,
    offsets: dict[str, int],
    hear: Callable[[OutputChunk], None],
    *,
    stop: threading.Event | None = None,
    wait_s: float = 0.0,
) -> bool:
    """Read a stream on: to its present end, or with `wait_s` until the instance ends.

    Returns:
        False where it cannot be read: an original Cook, a sandbox that is gone, a scheduler that restarts.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    if offsets.get(stream, 0) > OUTPUT_LIMIT_BYTES:
        return True
    try:
        while stop is None or not stop.is_set():
            piece = client.logs(instance, stream=stream, offset=offsets.get(stream, 0), wait_s=wait_s)
            offsets[stream] = piece.next_offset
            if text := decoder.decode(piece.data):
                hear(OutputChunk(stream, text))
            if piece.next_offset > OUTPUT_LIMIT_BYTES:
                option = " --stderr" if stream == "stderr" else ""
                more = f"more than 1 MB on {stream}; all of it with: %cook logs last{option}"
                hear(OutputChunk(stream, f"\n[{more}]\n"))
                return True
            if piece.next_offset >= piece.size and (piece.ended or not wait_s):
                return True
    except CookError:
        return False
    return True


class CellRun:
    """One run of a cell, from its submission to its end.

    Args:
        future: of the job.
        schedulers: the scheduler, which may be restarted meanwhile.
        screen: where to write.
    """

    def __init__(self, future: CookFuture, schedulers: Schedulers, screen: Screen) -> None:
        self._future = future
        self._schedulers = schedulers
        self._screen = screen
        self._news: queue.SimpleQueue[OutputChunk | None] = queue.SimpleQueue()
        self._followers: list[LogFollowers] = []
        self._offsets: dict[str, dict[str, int]] = {}  # by instance, by stream
        self._began = time.monotonic()
        self._sentence = ""
        self._asked_why = -ASK_WHY_EVERY_S
        self._held = ""  # the end of stderr, from a traceback on
        self._hold_until = 0.0

    def watch(self) -> None:
        """Return when the job has ended, in whatever way, and all it wrote is on the screen.

        Raises:
            KeyboardInterrupt: of the user, at once; the job goes on.
        """
        self._future.add_done_callback(lambda _: self._news.put(None))
        self._drain(QUICK_S)
        pause_s = LOOK_EVERY_S / 4
        while not self._future.done():
            self._look()
            self._drain(pause_s)
            pause_s = min(LOOK_EVERY_S, pause_s * 1.5)
        self._last_words()

    def last_line(self) -> StateLine:
        """How it ended."""
        try:
            return state_line(JobView.seen(self._schedulers.client.job(self._future.key)))
        except CookError:
            lasted = units.duration(time.monotonic() - self._began)
            return StateLine(MARKS.get(self._future.status, MARKS["killed"]), f"{self._short} after {lasted}")

    def _drain(self, seconds: float) -> None:
        """Write what comes within so many seconds, or until the job ends."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                said = self._news.get(timeout=left)
            except queue.Empty:
                return
            if said is None:
                return
            self._write(said)

    def _write(self, said: OutputChunk) -> None:
        """Put it on the screen; a traceback on stderr waits, since it may be the job's own last word."""
        text = said.text
        if said.stream == "stderr" and (self._held or _TRACEBACK in text):
            if not self._held:
                self._hold_until = time.monotonic() + HELD_S
                begin = text.index(_TRACEBACK)
                text, self._held = text[:begin], text[begin:]
            else:
                text, self._held = "", self._held + text
        if text:
            self._screen.write(said.stream, text)

    def _release(self) -> None:
        held, self._held = self._held, ""
        if held:
            self._screen.write("stderr", held)

    def _look(self) -> None:
        """See how the job is, follow a new instance, say how it is after a second."""
        if time.monotonic() > self._hold_until:
            self._release()
        key = self._future.key
        try:
            client = self._schedulers.client
            job = JobView.seen(client.job(key))
            self._listen(client, job)
            if time.monotonic() - self._began < SILENT_S:
                return
            if job.state == "waiting" and time.monotonic() - self._asked_why > ASK_WHY_EVERY_S:
                self._asked_why = time.monotonic()
                self._sentence = " ".join(client.why(key).sentences[:2])
        except NotFound:
            return  # it is still on its way there
        except SchedulerUnreachable:
            self._screen.say(StateLine(MARKS["waiting"], f"{self._short}: the scheduler does not answer"))
            with suppress(CookError):
                self._schedulers.find_again()
            return
        self._screen.say(state_line(job, self._sentence))

    def _listen(self, client: JobClient, job: JobView) -> None:
        """Follow the latest instance, if it is not followed, or no longer."""
        if job.latest is None:
            return
        instance = job.latest.uuid
        if any(each.instance == instance and not each.are_broken for each in self._followers):
            return
        for each in self._followers:  # one stream may still be read: not twice
            each.end(0.0)
        if instance not in self._offsets and any(any(read.values()) for read in self._offsets.values()):
            # What it writes now was perhaps seen before.
            self._news.put(OutputChunk("stderr", f"[{restart_reason(job)}]\n"))
        offsets = self._offsets.setdefault(instance, {})
        self._followers.append(LogFollowers(client, instance, offsets, self._news.put))

    def _last_words(self) -> None:
        for followers in self._followers:
            followers.end(LAST_WORDS_S)
        offsets = next(reversed(self._offsets.values()), {})
        for stream in STREAMS:  # what nobody has followed to its end
            read_log(self._schedulers.client, self._future.key, stream, offsets, self._news.put)
        while not self._news.empty():
            said = self._news.get()
            if said is not None:
                self._write(said)
        if self._future.cancelled() or self._future.exception() is None:
            self._release()  # else it is the traceback that the notebook shows anyway

    @property
    def _short(self) -> str:
        return f"{self._future.name} <{self._future.key[:8]}>"


def state_line(job: JobView, sentence: str = "") -> StateLine:
    """A job in one line, without what the reader of the cell knows; `sentence` says why it waits."""
    said = f"{job.name} <{job.uuid[:8]}>"
    if job.state == "waiting":
        note = f" · {job.note}" if job.note else ""
        return StateLine(job.mark, f"{said} for {units.duration(job.waited_s)}{note}. {sentence}")
    if job.took_s is not None:
        said += f" {'for' if job.state == 'running' else 'after'} {units.duration(job.took_s)}"
        said += f" on {job.host}" if job.host else ""
        said += f" · {job.asked}"
    return StateLine(job.mark, f"{said} · {job.note}" if job.note else said)


def restart_reason(job: JobView) -> str:
    """Why the output of a job starts from its beginning: how the instance before the latest ended."""
    before = job.instances[-2] if len(job.instances) > 1 else None
    if before is not None and before.preempted:
        return "preempted for a user further below their share; it begins anew, at no cost of retries"
    why = "" if before is None else before.reason_text.lower()
    return f"{why}; it begins anew" if why else "it begins anew"


def apply_outcome(outcome: CellOutcome, namespace: dict[str, Any], screen: Screen) -> Any:
    """Show what a cell displayed, set the names it gave back, and return its value.

    Raises:
        ResultLost: a name that was asked for cannot be sent back; the others are set.
    """
    for bundle in outcome.displays:
        screen.show(bundle)
    lost = []
    for name, packed in outcome.out.items():
        if packed.frames is None:
            lost.append(f"{name} {packed.problem}")
        else:
            namespace[name] = pickling.from_frames(packed.frames, keep_classes=True)
    if lost:
        raise ResultLost(f"the cell ran, but {'; '.join(lost)}")
    if outcome.value is None:
        return None
    if outcome.value.frames is not None:
        return pickling.from_frames(outcome.value.frames, keep_classes=True)
    if outcome.shown is not None:
        screen.show(outcome.shown)
    screen.write("stderr", f"The value {outcome.value.problem}; what is shown was drawn by the job.\n")
    return None
