"""Jobs as `%cook` shows them: one, or a list, with text and HTML.

Lives here: what is told of a job, how its attempts are counted for people, how it ended.
Not here: the other views (`notebook.views`), asking (`notebook.commands`), colours and tables
(`notebook.rendering`).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from cook_jupyter.client.answers import InstanceAnswer, JobAnswer
from cook_jupyter.model import reason as reasons
from cook_jupyter.model.counts import counted
from cook_jupyter.model.printable import printable
from cook_jupyter.notebook import units
from cook_jupyter.notebook.rendering import MARKS, Cell, Mark, card, html_text, paragraph, table, text_table
from cook_jupyter.payload.requirements import is_call

SHORT_ID = 8


@dataclass(frozen=True, slots=True)
class JobView:
    """One job at one moment."""

    job: JobAnswer
    now_ms: int

    @classmethod
    def seen(cls, job: JobAnswer) -> "JobView":
        """A job that was just asked for."""
        return cls(job, int(time.time() * 1000))

    @property
    def uuid(self) -> str:
        """The job's uuid, the `key` of its future."""
        return self.job.uuid

    @property
    def name(self) -> str:
        """Its name."""
        return self.job.name

    @property
    def state(self) -> str:
        """waiting, running, success or failed."""
        return self.job.state

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("success", "failed")

    @property
    def is_call(self) -> bool:
        """Whether it is a call of Python, which gives something back; else it is a shell command."""
        return is_call(self.job.env)

    @property
    def instances(self) -> Sequence[InstanceAnswer]:
        """Its instances, oldest first."""
        return self.job.instances_by_start

    @property
    def latest(self) -> InstanceAnswer | None:
        """Its latest instance; None if there was none."""
        instances = self.instances
        return instances[-1] if instances else None

    @property
    def host(self) -> str:
        """Where its latest instance runs or ran; empty if there was none."""
        latest = self.latest
        return "" if latest is None else latest.host

    @property
    def mark(self) -> Mark:
        """How its state is shown."""
        if self.state == "waiting" and self.instances:
            return MARKS["again"]
        latest = self.latest
        if self.state == "failed" and (latest is None or latest.reason == reasons.KILLED_BY_USER):
            return MARKS["killed"]
        return MARKS.get(self.state, MARKS["waiting"])

    @property
    def took_s(self) -> float | None:
        """How long the latest instance has run so far, or ran."""
        latest = self.latest
        if latest is None or self.state == "waiting":
            return None
        return max(0.0, (self._end_of(latest) - latest.started_ms) / 1000)

    @property
    def waited_s(self) -> float:
        """How long it has waited in all: for its first start, and again after each attempt that ended."""
        waited, since = 0.0, self.job.submitted_ms
        for instance in self.instances:
            waited += max(0, instance.started_ms - since)
            since = self._end_of(instance)
        if self.state == "waiting":
            waited += max(0, self.now_ms - since)
        return waited / 1000

    def _end_of(self, instance: InstanceAnswer) -> int:
        """Return when an instance ended, or this moment if it has not."""
        return self.now_ms if instance.ended_ms is None else instance.ended_ms

    @property
    def preempted(self) -> int:
        """How often it had to make way for somebody else's job."""
        return sum(1 for instance in self.job.instances if instance.preempted)

    @property
    def attempts_used(self) -> int:
        """How many of its attempts are used up: failures that were not its own count only past a limit."""
        if self.job.retries_remaining is not None:
            return self.job.max_retries - self.job.retries_remaining
        return self._own_attempts

    @property
    def _own_attempts(self) -> int:
        """How many instances ended in a success, or in a failure of the job's own."""
        return sum(
            1
            for instance in self.job.instances
            if instance.status in ("success", "failed") and not (instance.preempted or instance.mea_culpa)
        )

    @property
    def paid_for_others(self) -> bool:
        """Whether failures that were not its own have cost attempts after all, as too many do."""
        return self.attempts_used > self._own_attempts

    @property
    def asked(self) -> str:
        """What it asks for on a host."""
        gpus = f", {counted(int(self.job.gpus), 'gpu')}" if self.job.gpus else ""
        return f"{units.cpus(self.job.cpus)}, {units.memory(self.job.mem_mb)}{gpus}"

    @property
    def note(self) -> str:
        """What is worth knowing: how it failed, that it was preempted, how far it is."""
        latest = self.latest
        said = []
        if self.preempted:
            said.append(f"preempted {_often(self.preempted)}")
        if latest is not None:
            if self.state == "running" and latest.progress:
                said.append(f"{latest.progress} % {latest.progress_message}".strip())
            again = self.mark is MARKS["again"] and not latest.preempted
            if latest.reason_text and (self.state == "failed" or again):
                said.append(_ended(latest))
        used, most = self.attempts_used, self.job.max_retries
        if self.mark is MARKS["again"]:
            if used:
                said.append(f"{used} of {counted(most, 'attempt')} used")
        elif (number := used + (self.state == "running")) > 1:
            said.append(f"attempt {number} of {most}")
        return "; ".join(said)

    def line(self) -> str:
        """It in one line of text."""
        took = self.took_s
        parts = [f"{self.mark.text}  {self.uuid[:SHORT_ID]}  {self.name}", self.asked]
        if self.state == "waiting":
            parts.append(f"waiting for {units.duration(self.waited_s)}")
        if took is not None:
            where = f" on {self.host}" if self.host else ""
            parts.append(
                f"{'running for' if self.state == 'running' else 'ran'} {units.duration(took)}{where}"
            )
        if self.note:
            parts.append(self.note)
        return printable(" · ".join(parts))

    def cells(self) -> list[Cell]:
        """It as a row of a table, see `JobsView.COLUMNS`."""
        took = self.took_s
        submitted = self.job.submitted_ms
        return [
            Cell(self.mark.text, html=self.mark.html),
            Cell(
                self.uuid[:SHORT_ID], title=self.uuid, html=f"<code>{html_text(self.uuid[:SHORT_ID])}</code>"
            ),
            Cell(self.name, title=self.job.command[:200]),
            Cell(self.asked),
            Cell(units.moment(submitted, self.now_ms), title=units.full_moment(submitted)),
            Cell(units.duration(self.waited_s), right=True),
            Cell("" if took is None else units.duration(took), right=True),
            Cell(self.host),
            Cell(self.note),
        ]

    def __repr__(self) -> str:
        return self.line()

    def _repr_html_(self) -> str:
        return table(JobsView.COLUMNS, [self.cells()], caption=f"Job {self.name}")


@dataclass(frozen=True, slots=True)
class JobsView(Sequence[JobView]):
    """Jobs, newest first. A sequence: `jobs[0].uuid`."""

    COLUMNS = ("state", "id", "name", "asks for", "submitted", "waited", "ran", "host", "")

    jobs: tuple[JobView, ...]
    now_ms: int
    title: str = "Jobs"

    @classmethod
    def of(cls, jobs: Sequence[JobAnswer], now_ms: int, title: str = "Jobs") -> "JobsView":
        """Make a view of a client's answers."""
        return cls(tuple(JobView(job, now_ms) for job in jobs), now_ms, title)

    @overload
    def __getitem__(self, place: int) -> JobView: ...
    @overload
    def __getitem__(self, place: slice) -> "JobsView": ...
    def __getitem__(self, place: int | slice) -> "JobView | JobsView":
        if isinstance(place, slice):
            return JobsView(self.jobs[place], self.now_ms, self.title)
        return self.jobs[place]

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[JobView]:
        return iter(self.jobs)

    def __repr__(self) -> str:
        if not self.jobs:
            return printable(f"{self.title}: none")
        return f"{printable(self._head)}\n{text_table(self.COLUMNS, [job.cells() for job in self.jobs])}"

    def _repr_html_(self) -> str:
        if not self.jobs:
            return card(html_text(self.title), paragraph("none", faint=True))
        rows = [job.cells() for job in self.jobs]
        return card(html_text(self._head), table(self.COLUMNS, rows, caption=self.title))

    @property
    def _head(self) -> str:
        counts: dict[str, int] = {}
        for job in self.jobs:
            counts[job.mark.word] = counts.get(job.mark.word, 0) + 1
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        return f"{self.title}: {told} (as of {units.moment(self.now_ms, self.now_ms)})"


def how_it_ended(job: JobView) -> str:
    """The end of a job in sentences: how, where, after how long, on which attempt, and what was lost."""
    latest, took = job.latest, job.took_s
    if latest is None:
        return "It was killed before it had started."
    where = f"on {latest.host}" if latest.host else ""
    after = "" if took is None else f"after {units.duration(took)}"
    attempt = f"at attempt {job.attempts_used} of {job.job.max_retries}" if job.attempts_used > 1 else ""
    if job.state == "success":
        verb = "It succeeded"
    elif job.mark is MARKS["killed"]:
        verb = "It was killed"
    else:
        verb = f"It failed ({_ended(latest)})"
    said = " ".join(part for part in (verb, where, after, attempt) if part) + "."
    lost = [instance for instance in job.instances if instance.preempted]
    if lost:
        ran_s = sum(each.ended_ms - each.started_ms for each in lost if each.ended_ms is not None) / 1000
        said += (
            f" It had been preempted {_often(len(lost))} for jobs of users further below their share: "
            f"{units.duration(ran_s)} of running were lost{'' if job.paid_for_others else ', but no retry'}."
        )
    return said


def _often(times: int) -> str:
    return "once" if times == 1 else "twice" if times == 2 else f"{times} times"


def _ended(instance: InstanceAnswer) -> str:
    text = instance.reason_text.lower()
    if instance.exit_code not in (None, 0):
        text += f", exit code {instance.exit_code}"
    return text
