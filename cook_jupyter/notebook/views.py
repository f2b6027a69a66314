"""What `%cook` shows: the state of things, jobs, reasons, usage, as values with text and HTML.

Lives here: one frozen view per question, made of a scheduler's answers at one moment. Showing it again asks
nobody: it says of when it is.
Not here: asking (`notebook.magics`), colours and tables (`notebook.look`).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, overload

from cook_jupyter.model import reason as reasons
from cook_jupyter.model.reason import REASONS
from cook_jupyter.notebook import units
from cook_jupyter.notebook.look import MARKS, Cell, Mark, bar, card, paragraph, table, text_table

UNLIMITED = 1e300  # Cook says "no limit" with the largest double
SHORT_ID = 8
KILLED_BY_USER = REASONS[reasons.KILLED_BY_USER].code


@dataclass(frozen=True, slots=True)
class JobView:
    """One job at one moment, from Cook's JSON."""

    job: Mapping[str, Any]
    now_ms: int

    @classmethod
    def seen(cls, job: Mapping[str, Any]) -> "JobView":
        """A job that was just asked for."""
        return cls(job, int(time.time() * 1000))

    @property
    def uuid(self) -> str:
        """The job's uuid, the `key` of its future."""
        return str(self.job["uuid"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.job.get("name", ""))

    @property
    def state(self) -> str:
        """waiting, running, success or failed."""
        return str(self.job["state"])

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("success", "failed")

    @property
    def is_call(self) -> bool:
        """Whether it is a call of Python, which gives something back; else it is a shell command."""
        return not {"COOK_CALL", "COOK_CALL_BLOB"}.isdisjoint(self.job.get("env", {}))

    @property
    def instances(self) -> Sequence[Mapping[str, Any]]:
        """Its instances, oldest first."""
        return sorted(self.job.get("instances", ()), key=lambda instance: instance.get("start_time", 0))

    @property
    def latest(self) -> Mapping[str, Any]:
        """Its latest instance; empty if there was none."""
        instances = self.instances
        return instances[-1] if instances else {}

    @property
    def mark(self) -> Mark:
        """How its state is shown."""
        if self.state == "waiting" and self.instances:
            return MARKS["again"]
        if self.state == "failed" and (
            not self.instances or self.latest.get("reason_code") == KILLED_BY_USER
        ):
            return MARKS["killed"]
        return MARKS.get(self.state, MARKS["waiting"])

    @property
    def took_s(self) -> float | None:
        """How long the latest instance has run so far, or ran."""
        latest = self.latest
        if not latest or self.state == "waiting":
            return None
        return max(0.0, float(latest.get("end_time", self.now_ms) - latest["start_time"]) / 1000)

    @property
    def waited_s(self) -> float:
        """From submission to the first start, or till now."""
        first = self.instances[0]["start_time"] if self.instances else self._end_ms
        return max(0.0, float(first - self.job["submit_time"]) / 1000)

    @property
    def asked(self) -> str:
        """What it asks for on a host."""
        gpus = f", {units.counted(int(self.job['gpus']), 'gpu')}" if self.job.get("gpus") else ""
        return f"{units.cpus(self.job['cpus'])}, {units.memory(self.job['mem'])}{gpus}"

    @property
    def note(self) -> str:
        """What is worth knowing: how it failed, that it was preempted, how far it is."""
        latest = self.latest
        said = []
        preempted = sum(1 for instance in self.instances if instance.get("preempted"))
        if preempted:
            said.append(f"preempted {preempted} ×" if preempted > 1 else "preempted once")
        if self.state == "running" and latest.get("progress"):
            said.append(f"{latest['progress']} % {latest.get('progress_message', '')}".strip())
        if latest.get("reason_string") and (self.state == "failed" or self.mark is MARKS["again"]):
            said.append(_ended(latest))
        if len(self.instances) > 1:
            said.append(f"attempt {len(self.instances)} of {self.job['max_retries']}")
        return "; ".join(said)

    def line(self) -> str:
        """It in one line of text."""
        took = self.took_s
        parts = [f"{self.mark.text}  {self.uuid[:SHORT_ID]}  {self.name}", self.asked]
        if self.state == "waiting":
            parts.append(f"waiting for {units.duration(self.waited_s)}")
        if took is not None:
            where = f" on {self.latest['hostname']}" if self.latest.get("hostname") else ""
            parts.append(
                f"{'running for' if self.state == 'running' else 'ran'} {units.duration(took)}{where}"
            )
        if self.note:
            parts.append(self.note)
        return " · ".join(parts)

    def cells(self) -> list[Cell]:
        """It as a row of a table, see `JobsView.COLUMNS`."""
        took = self.took_s
        submitted = self.job["submit_time"]
        return [
            Cell(self.mark.text, html=self.mark.html),
            Cell(self.uuid[:SHORT_ID], title=self.uuid, html=f"<code>{self.uuid[:SHORT_ID]}</code>"),
            Cell(self.name, title=str(self.job.get("command", ""))[:200]),
            Cell(self.asked),
            Cell(units.moment(submitted, self.now_ms), title=units.full_moment(submitted)),
            Cell(units.duration(self.waited_s), right=True),
            Cell("" if took is None else units.duration(took), right=True),
            Cell(str(self.latest.get("hostname", ""))),
            Cell(self.note),
        ]

    def __repr__(self) -> str:
        return self.line()

    def _repr_html_(self) -> str:
        return table(JobsView.COLUMNS, [self.cells()], caption=f"Job {self.name}")

    @property
    def _end_ms(self) -> int:
        return int(self.latest.get("end_time", self.now_ms))


@dataclass(frozen=True, slots=True)
class JobsView(Sequence[JobView]):
    """Jobs, newest first. A sequence: `jobs[0].uuid`."""

    COLUMNS = ("state", "id", "name", "asks for", "submitted", "waited", "ran", "host", "")

    jobs: tuple[JobView, ...]
    now_ms: int
    title: str = "Jobs"

    @classmethod
    def of(cls, jobs: Sequence[Mapping[str, Any]], now_ms: int, title: str = "Jobs") -> "JobsView":
        """From Cook's JSON."""
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
            return f"{self.title}: none"
        return f"{self._head}\n{text_table(self.COLUMNS, [job.cells() for job in self.jobs])}"

    def _repr_html_(self) -> str:
        if not self.jobs:
            return card(escape(self.title), paragraph("none", faint=True))
        rows = [job.cells() for job in self.jobs]
        return card(escape(self._head), table(self.COLUMNS, rows, caption=self.title))

    @property
    def _head(self) -> str:
        counts: dict[str, int] = {}
        for job in self.jobs:
            counts[job.mark.word] = counts.get(job.mark.word, 0) + 1
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        return f"{self.title}: {told} (as of {units.moment(self.now_ms, self.now_ms)})"


@dataclass(frozen=True, slots=True)
class StateView:
    """The state of things: the scheduler, what is used, who runs and waits, one's latest jobs."""

    summary: Mapping[str, Any]
    where: str
    jobs: JobsView

    def __repr__(self) -> str:
        lines = [self._head, f"  {self._used}"]
        if self.summary["users"]:
            rows = text_table(self._columns, self._user_rows())
            lines += [f"  {line}" for line in rows.splitlines()]
        if len(self.jobs):
            lines += ["", repr(self.jobs)]
        else:
            lines.append("  No jobs of yours yet: begin a cell with %%cook, or see %cook help.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        used, capacity = self.summary["used"], self.summary["capacity"]
        blocks = [
            f"<div>{bar(used['cpus'], capacity['cpus'])} {escape(self._used)}</div>",
        ]
        if self.summary["users"]:
            blocks.append(table(self._columns, self._user_rows(), caption="Users"))
        if len(self.jobs):
            blocks.append(self.jobs._repr_html_())
        else:
            blocks.append(
                paragraph("No jobs of yours yet: begin a cell with %%cook, or see %cook help.", faint=True)
            )
        return card(escape(self._head), *blocks)

    _columns = ("user", "running", "waiting", "cpus", "share", "DRU", "")

    @property
    def _head(self) -> str:
        return f"cook_jupyter at {self.where}, as {self.summary['user']}"

    @property
    def _used(self) -> str:
        used, capacity = self.summary["used"], self.summary["capacity"]
        hosts = int(capacity.get("hosts", 1))
        return (
            f"{units.number(used['cpus'])} of {units.cpus(capacity['cpus'])} and "
            f"{units.memory(used['mem'])} of {units.memory(capacity['mem'])} in use on "
            f"{units.counted(hosts, 'host')}; {units.counted(self.summary['running'], 'job')} running, "
            f"{self.summary['waiting']:,} waiting"
        )

    def _user_rows(self) -> list[list[Cell]]:
        rows = []
        for user in self.summary["users"]:
            share, dru = user.get("share_cpus"), user.get("dru")
            unlimited = share is None or share > UNLIMITED
            you = " (you)" if user["user"] == self.summary["user"] else ""
            rows.append(
                [
                    Cell(f"{user['user']}{you}"),
                    Cell(f"{user['running']:,}", right=True),
                    Cell(f"{user['waiting']:,}", right=True),
                    Cell(units.number(user["cpus"]), right=True),
                    Cell("no limit" if unlimited else units.number(share), right=True),
                    Cell("" if dru is None else f"{dru:.2f}", right=True),
                    Cell("" if unlimited or dru is None or dru <= 1 else "over the share"),
                ]
            )
        return rows


@dataclass(frozen=True, slots=True)
class WhyView:
    """Why a job is where it is, in sentences."""

    job: JobView
    sentences: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([self.job.line(), *(f"  {sentence}" for sentence in self.sentences)])

    def _repr_html_(self) -> str:
        head = f"{self.job.mark.html} {escape(self.job.name)} <code>{self.job.uuid[:SHORT_ID]}</code>"
        return card(head, *(paragraph(sentence) for sentence in self.sentences))


@dataclass(frozen=True, slots=True)
class UsageView:
    """What a user holds, beside share and quota, in one pool after the other."""

    user: str
    usage: Mapping[str, Any]
    share: Mapping[str, Any]
    quota: Mapping[str, Any]
    capacity: Mapping[str, Any]

    _columns = ("pool", "resource", "in use", "share", "quota", "")

    def __repr__(self) -> str:
        return f"Usage of {self.user}\n{text_table(self._columns, self._rows())}"

    def _repr_html_(self) -> str:
        caption = f"Usage of {self.user}"
        return card(escape(caption), table(self._columns, self._rows(), caption=caption))

    def _rows(self) -> list[list[Cell]]:
        pools = self.usage.get("pools") or {"": self.usage}
        rows = []
        for pool, of_pool in pools.items():
            total = of_pool["total_usage"]
            share = self.share.get("pools", {}).get(pool, self.share)
            quota = self.quota.get("pools", {}).get(pool, self.quota)
            for key, word in (("cpus", "cpus"), ("mem", "memory"), ("gpus", "gpus"), ("jobs", "jobs")):
                used = total.get(key, 0)
                of_share, of_quota = share.get(key), quota.get("count" if key == "jobs" else key)
                whole = self.capacity.get(key) or 0
                if key == "gpus" and not used and not whole:
                    continue
                say = units.memory if key == "mem" else units.number
                drawn = bar(used, whole, of_share if of_share and of_share < UNLIMITED else None)
                text = f"of {say(whole)} in all" if whole else ""
                rows.append(
                    [
                        Cell(pool),
                        Cell(word),
                        Cell(say(used), right=True),
                        Cell(_limit(of_share, say), right=True),
                        Cell(_limit(of_quota, say), right=True),
                        Cell(text, html=f"{drawn} {escape(text)}" if whole else ""),
                    ]
                )
        return rows


@dataclass(frozen=True, slots=True)
class SettingsView:
    """Settings: what they are, and where each comes from."""

    rows: tuple[tuple[str, str, str], ...]  # name, value, where from
    hint: str

    _columns = ("setting", "value", "from")

    def __repr__(self) -> str:
        return f"{text_table(self._columns, self._cells())}\n{self.hint}"

    def _repr_html_(self) -> str:
        return card(
            "Settings of cook_jupyter",
            table(self._columns, self._cells(), caption="Settings"),
            paragraph(self.hint, faint=True),
        )

    def _cells(self) -> list[list[Cell]]:
        return [[Cell(text) for text in row] for row in self.rows]


def how_it_ended(job: JobView) -> str:
    """The end of a job in one sentence: how, where, after how long, on which attempt."""
    latest, took = job.latest, job.took_s
    if not latest:
        return "It was killed before it had started."
    where = f"on {latest['hostname']}" if latest.get("hostname") else ""
    after = "" if took is None else f"after {units.duration(took)}"
    attempt = (
        f"at attempt {len(job.instances)} of {job.job['max_retries']}" if job.job["max_retries"] > 1 else ""
    )
    if job.state == "success":
        verb = "It succeeded"
    elif job.mark is MARKS["killed"]:
        verb = "It was killed"
    else:
        verb = f"It failed ({_ended(latest)})"
    return " ".join(part for part in (verb, where, after, attempt) if part) + "."


def _ended(instance: Mapping[str, Any]) -> str:
    text = str(instance.get("reason_string", "")).lower()
    if instance.get("exit_code") not in (None, 0):
        text += f", exit code {instance['exit_code']}"
    return text


def _limit(value: float | None, say: Any) -> str:
    return "no limit" if value is None or value > UNLIMITED or value == 2147483647 else str(say(value))
