"""Views of jobs for `%cook`: one job, or a list, as text and HTML.

Lives here: what is shown of a job, how its attempts are counted for users, how it ended.
Not here: the other views (`notebook.views`), requests (`notebook.commands`), colours and tables
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
    """A job at one moment."""

    job: JobAnswer
    now_ms: int

    @classmethod
    def at_now(cls, job: JobAnswer) -> "JobView":
        """Create a view of a job that was just requested."""
        return cls(job, int(time.time() * 1000))

    @property
    def uuid(self) -> str:
        """The job's uuid, the `key` of its future."""
        return self.job.uuid

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.job.name

    @property
    def state(self) -> str:
        """State of the job: waiting, running, success or failed."""
        return self.job.state

    @property
    def is_over(self) -> bool:
        """Whether the job has ended for good."""
        return self.state in ("success", "failed")

    @property
    def is_call(self) -> bool:
        """Whether the job is a Python call, which has a result, and not a shell command."""
        return is_call(self.job.env)

    @property
    def instances(self) -> Sequence[InstanceAnswer]:
        """Instances of the job, oldest first."""
        return self.job.instances_by_start

    @property
    def latest(self) -> InstanceAnswer | None:
        """Latest instance; None if there was none."""
        instances = self.instances
        return instances[-1] if instances else None

    @property
    def host(self) -> str:
        """Host of the latest instance; empty if there was none."""
        latest = self.latest
        return "" if latest is None else latest.host

    @property
    def mark(self) -> Mark:
        """Mark that shows the state."""
        if self.state == "waiting" and self.instances:
            return MARKS["again"]
        latest = self.latest
        if self.state == "failed" and (latest is None or latest.reason == reasons.KILLED_BY_USER):
            return MARKS["killed"]
        return MARKS.get(self.state, MARKS["waiting"])

    @property
    def run_time_s(self) -> float | None:
        """Run time of the latest instance so far or until its end; None while the job waits."""
        latest = self.latest
        if latest is None or self.state == "waiting":
            return None
        return max(0.0, (self._end_of(latest) - latest.started_ms) / 1000)

    @property
    def is_never_started(self) -> bool:
        """Whether the job was completed while it waited: when is not recorded."""
        return self.state not in ("waiting", "running") and not self.instances

    @property
    def waited_s(self) -> float:
        """Total waiting time: until the first start, and again after each attempt that ended."""
        waited, since = 0.0, self.job.submitted_ms
        for instance in self.instances:
            waited += max(0, instance.started_ms - since)
            since = self._end_of(instance)
        if self.state == "waiting":
            waited += max(0, self.now_ms - since)
        return waited / 1000

    def _end_of(self, instance: InstanceAnswer) -> int:
        """Return when an instance ended, or the present moment if it has not."""
        return self.now_ms if instance.ended_ms is None else instance.ended_ms

    @property
    def preempted(self) -> int:
        """Number of times that the job was preempted."""
        return sum(1 for instance in self.job.instances if instance.preempted)

    @property
    def attempts_used(self) -> int:
        """Number of attempts used; failures of the system count only beyond a limit."""
        if self.job.retries_remaining is not None:
            return self.job.max_retries - self.job.retries_remaining
        return self._own_attempts

    @property
    def _own_attempts(self) -> int:
        """Number of instances that succeeded, or failed through the job's own fault."""
        return sum(
            1
            for instance in self.job.instances
            if instance.status in ("success", "failed") and not (instance.preempted or instance.mea_culpa)
        )

    @property
    def charged_for_system_failures(self) -> bool:
        """Whether failures of the system have cost attempts after all, because there were too many."""
        return self.attempts_used > self._own_attempts

    @property
    def request_text(self) -> str:
        """The resources that the job requests, as text."""
        gpus = f", {counted(int(self.job.gpus), 'gpu')}" if self.job.gpus else ""
        return f"{units.cpus(self.job.cpus)}, {units.memory(self.job.mem_mb)}{gpus}"

    @property
    def note(self) -> str:
        """Further details: how the job failed, how often it was preempted, its progress."""
        latest = self.latest
        parts = []
        if self.preempted:
            parts.append(f"preempted {_times(self.preempted)}")
        if latest is not None:
            if self.state == "running" and latest.progress:
                parts.append(f"{latest.progress} % {latest.progress_message}".strip())
            again = self.mark is MARKS["again"] and not latest.preempted
            if latest.reason_text and (self.state == "failed" or again):
                parts.append(_reason(latest))
        used, max_retries = self.attempts_used, self.job.max_retries
        if self.mark is MARKS["again"]:
            if used:
                parts.append(f"{used} of {counted(max_retries, 'attempt')} used")
        elif (number := used + (self.state == "running")) > 1:
            parts.append(f"attempt {number} of {max_retries}")
        return "; ".join(parts)

    def line(self) -> str:
        """Return the job as one line of text."""
        run_time_s = self.run_time_s
        parts = [f"{self.mark.text}  {self.uuid[:SHORT_ID]}  {self.name}", self.request_text]
        if self.state == "waiting":
            parts.append(f"waiting for {units.duration(self.waited_s)}")
        if run_time_s is not None:
            where = f" on {self.host}" if self.host else ""
            parts.append(
                f"{'running for' if self.state == 'running' else 'ran'} {units.duration(run_time_s)}{where}"
            )
        if self.note:
            parts.append(self.note)
        return printable(" · ".join(parts))

    def cells(self) -> list[Cell]:
        """Return the job as a row of a table with the columns `JobsView.COLUMNS`."""
        run_time_s = self.run_time_s
        submitted = self.job.submitted_ms
        return [
            Cell(self.mark.text, html=self.mark.html),
            Cell(
                self.uuid[:SHORT_ID], title=self.uuid, html=f"<code>{html_text(self.uuid[:SHORT_ID])}</code>"
            ),
            Cell(self.name, title=self.job.command[:200]),
            Cell(self.request_text),
            Cell(units.moment(submitted, self.now_ms), title=units.full_moment(submitted)),
            Cell("" if self.is_never_started else units.duration(self.waited_s), right=True),
            Cell("" if run_time_s is None else units.duration(run_time_s), right=True),
            Cell(self.host),
            Cell(self.note),
        ]

    def __repr__(self) -> str:
        return self.line()

    def _repr_html_(self) -> str:
        return table(JobsView.COLUMNS, [self.cells()], caption=f"Job {self.name}")


@dataclass(frozen=True, slots=True)
class JobsView(Sequence[JobView]):
    """A sequence of jobs, newest first, so that `jobs[0].uuid` works."""

    COLUMNS = ("state", "id", "name", "requests", "submitted", "waited", "ran", "host", "")

    jobs: tuple[JobView, ...]
    now_ms: int
    title: str = "Jobs"

    @classmethod
    def of(cls, jobs: Sequence[JobAnswer], now_ms: int, title: str = "Jobs") -> "JobsView":
        """Create a view of jobs that the client returned."""
        return cls(tuple(JobView(job, now_ms) for job in jobs), now_ms, title)

    @overload
    def __getitem__(self, index: int) -> JobView: ...
    @overload
    def __getitem__(self, index: slice) -> "JobsView": ...
    def __getitem__(self, index: int | slice) -> "JobView | JobsView":
        if isinstance(index, slice):
            return JobsView(self.jobs[index], self.now_ms, self.title)
        return self.jobs[index]

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
        counts_text = ", ".join(f"{count} {word}" for word, count in counts.items())
        return f"{self.title}: {counts_text} (as of {units.moment(self.now_ms, self.now_ms)})"


def how_it_ended(job: JobView) -> str:
    """Return sentences on how a job ended: where, after how long, at which attempt, and what was lost."""
    latest, run_time_s = job.latest, job.run_time_s
    if latest is None:
        return "It was killed before it had started."
    where = f"on {latest.host}" if latest.host else ""
    after = "" if run_time_s is None else f"after {units.duration(run_time_s)}"
    attempt = f"at attempt {job.attempts_used} of {job.job.max_retries}" if job.attempts_used > 1 else ""
    if job.state == "success":
        verb = "It succeeded"
    elif job.mark is MARKS["killed"]:
        verb = "It was killed"
    else:
        verb = f"It failed ({_reason(latest)})"
    text = " ".join(part for part in (verb, where, after, attempt) if part) + "."
    preempted = [instance for instance in job.instances if instance.preempted]
    if preempted:
        ran_s = (
            sum(
                instance.ended_ms - instance.started_ms
                for instance in preempted
                if instance.ended_ms is not None
            )
            / 1000
        )
        text += (
            f" It had been preempted {_times(len(preempted))} for jobs of users further below their share: "
            f"{units.duration(ran_s)} of running were lost"
            f"{'' if job.charged_for_system_failures else ', but no retry'}."
        )
    return text


def _times(times: int) -> str:
    return "once" if times == 1 else "twice" if times == 2 else f"{times} times"


def _reason(instance: InstanceAnswer) -> str:
    text = instance.reason_text.lower()
    if instance.exit_code not in (None, 0):
        text += f", exit code {instance.exit_code}"
    return text
