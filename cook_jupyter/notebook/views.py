"""Views that `%cook` shows, except jobs: the scheduler, reasons, usage, settings, as text and HTML.

Lives here: one frozen view per question, with the scheduler's answers at one moment. Showing it again asks
nothing again, so it includes its time.
Not here: jobs (`notebook.job_views`), requests (`notebook.commands`), colours and tables
(`notebook.rendering`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from cook_jupyter.client.answers import (
    Capacity,
    QuotaAnswer,
    ShareAnswer,
    SummaryAnswer,
    UsageAnswer,
    UserSummary,
)
from cook_jupyter.model.counts import counted
from cook_jupyter.model.limits import UNLIMITED_COUNT, UNLIMITED_LAUNCH_RATE_PER_MINUTE
from cook_jupyter.model.printable import printable
from cook_jupyter.notebook import units
from cook_jupyter.notebook.job_views import SHORT_ID, JobsView, JobView
from cook_jupyter.notebook.rendering import Cell, bar, card, html_text, paragraph, table, text_table

UNLIMITED = 1e300  # Cook represents "no limit" by the largest double
MAX_USERS_SHOWN = 5
USER_STATES = {
    "starved": "waits, and holds less than its share",
    "hungry": "waits, and holds its share or more",
    "satisfied": "waits for nothing",
}


@dataclass(frozen=True, slots=True)
class StateView:
    """The scheduler, its load, its users, and the latest jobs of the current user."""

    summary: SummaryAnswer
    url: str
    jobs: JobsView

    def __repr__(self) -> str:
        lines = [printable(self._head), f"  {self._used}"]
        if self.summary.users:
            rows = text_table(self._columns, self._user_rows())
            lines += [f"  {line}" for line in rows.splitlines()]
        if len(self.jobs):
            lines += ["", repr(self.jobs)]
        else:
            lines.append("  No jobs of yours yet: begin a cell with %%cook, or see %cook help.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        used, capacity = self.summary.used, self.summary.capacity
        blocks = [f"<div>{bar(used.cpus, capacity.cpus)} {html_text(self._used)}</div>"]
        if self.summary.users:
            blocks.append(table(self._columns, self._user_rows(), caption="Users"))
        if len(self.jobs):
            blocks.append(self.jobs._repr_html_())
        else:
            blocks.append(
                paragraph("No jobs of yours yet: begin a cell with %%cook, or see %cook help.", faint=True)
            )
        return card(html_text(self._head), *blocks)

    _columns = ("user", "running", "waiting", "cpus", "share", "DRU", "")

    @property
    def _head(self) -> str:
        return f"cook_jupyter at {self.url}, as {self.summary.user}"

    @property
    def _used(self) -> str:
        used, capacity = self.summary.used, self.summary.capacity
        return (
            f"{units.number(used.cpus)} of {units.cpus(capacity.cpus)} and "
            f"{units.memory(used.mem_mb)} of {units.memory(capacity.mem_mb)} in use on "
            f"{counted(capacity.hosts, 'host')}; {counted(self.summary.running, 'job')} running, "
            f"{self.summary.waiting:,} waiting"
        )

    def _user_rows(self) -> list[list[Cell]]:
        rows = []
        for user in self.summary.users:
            share, dru = _limited(user.share_cpus), user.dru
            you = " (you)" if user.user == self.summary.user else ""
            state_texts = [user.standing] if user.standing else []
            if share is not None and dru is not None and dru > 1:
                state_texts.append("over the share")
            rows.append(
                [
                    Cell(f"{user.user}{you}"),
                    Cell(f"{user.running:,}", right=True),
                    Cell(f"{user.waiting:,}", right=True),
                    Cell(units.number(user.cpus), right=True),
                    Cell("no limit" if share is None else units.number(share), right=True),
                    Cell("" if dru is None else f"{dru:.2f}", right=True),
                    Cell(", ".join(state_texts), title=USER_STATES.get(user.standing, "")),
                ]
            )
        return rows


@dataclass(frozen=True, slots=True)
class WhyView:
    """Sentences on why a job waits or how it ended; for a waiting job, also who uses the cpus."""

    job: JobView
    sentences: tuple[str, ...]
    summary: SummaryAnswer | None = None

    def __repr__(self) -> str:
        sentences = [*self.sentences, *self._usage_of_users]
        return "\n".join([self.job.line(), *(f"  {printable(sentence)}" for sentence in sentences)])

    def _repr_html_(self) -> str:
        short = html_text(self.job.uuid[:SHORT_ID])
        head = f"{self.job.mark.html} {html_text(self.job.name)} <code>{short}</code>"
        # The sentences of a waiting or ended job contain what the note does.
        note = [paragraph(self.job.note, faint=True)] if self.job.state == "running" and self.job.note else []
        paragraphs = [paragraph(sentence) for sentence in self.sentences]
        return card(
            head, *note, *paragraphs, *(paragraph(sentence, faint=True) for sentence in self._usage_of_users)
        )

    @property
    def _usage_of_users(self) -> list[str]:
        """Users of the cpus, the largest first."""
        if self.summary is None:
            return []
        holders = sorted(
            (user for user in self.summary.users if user.running), key=lambda user: (-user.cpus, user.user)
        )
        parts = []
        for user in holders[:MAX_USERS_SHOWN]:
            name = f"{user.user} (you)" if user.user == self.summary.user else user.user
            share = _limited(user.share_cpus)
            limit = "" if share is None else f", share {units.number(share)}"
            parts.append(f"{name} {units.number(user.cpus)}{limit}")
        if not parts:
            return []
        if len(holders) > MAX_USERS_SHOWN:
            parts.append(f"{counted(len(holders) - MAX_USERS_SHOWN, 'other user')} the rest")
        return [f"In use of {units.cpus(self.summary.capacity.cpus)}: {'; '.join(parts)}."]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageView:
    """Usage, share and quota of a user in each pool.

    Attributes:
        capacity: total resources of the hosts; None from an original Cook, which does not report it.
        summary: the user's part of the scheduler's summary; None if there is none.
    """

    user: str
    usage: UsageAnswer
    share: ShareAnswer
    quota: QuotaAnswer
    capacity: Capacity | None = None
    summary: UserSummary | None = None

    _columns = ("pool", "resource", "in use", "share", "quota", "")

    def __repr__(self) -> str:
        lines = [printable(self._head), *([f"  {printable(self._user_state)}"] if self._user_state else [])]
        return "\n".join([*lines, text_table(self._columns, self._rows())])

    def _repr_html_(self) -> str:
        state = [paragraph(self._user_state)] if self._user_state else []
        return card(html_text(self._head), *state, table(self._columns, self._rows(), caption=self._head))

    @property
    def _head(self) -> str:
        return f"Usage of {self.user}"

    @property
    def _user_state(self) -> str:
        """State of the user, as text."""
        parts: list[str] = []
        if self.summary is None:
            return ""
        if word := self.summary.standing:
            parts.append(f"{word} ({USER_STATES.get(word, '')})")
        if (dru := self.summary.dru) is not None:
            parts.append(f"DRU {dru:.2f}")
            if dru > 1:
                parts.append("over the share: running jobs may be preempted for users below theirs")
        return " · ".join(parts)

    def _rows(self) -> list[list[Cell]]:
        rows = []
        for pool, usage in (self.usage.pools or {"": self.usage}).items():
            share, quota = self.share.of_pool(pool), self.quota.of_pool(pool)
            used, total = usage.total, self.capacity or Capacity(hosts=0)
            rows.append(_usage_row(pool, "cpus", used.cpus, share.cpus, quota.cpus, total.cpus))
            rows.append(
                _usage_row(
                    pool, "memory", used.mem_mb, share.mem_mb, quota.mem_mb, total.mem_mb, units.memory
                )
            )
            if used.gpus or total.gpus:
                rows.append(_usage_row(pool, "gpus", used.gpus, share.gpus, quota.gpus, total.gpus))
            rows.append(_usage_row(pool, "jobs", used.jobs, None, quota.count))
            rate, saved = quota.launch_rate_per_minute, quota.launch_rate_saved
            if rate is not None and rate != UNLIMITED_LAUNCH_RATE_PER_MINUTE:
                text = "" if saved is None else f"up to {units.number(saved)} saved"
                cells = [Cell(pool), Cell("starts per minute"), Cell("", right=True), Cell("", right=True)]
                rows.append([*cells, Cell(units.number(rate), right=True), Cell(text)])
        return rows


@dataclass(frozen=True, slots=True)
class SettingsView:
    """Settings with their values and origins."""

    rows: tuple[tuple[str, str, str], ...]  # name, value, origin
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


def _usage_row(
    pool: str,
    resource: str,
    used: float,
    share: float | None,
    quota: float | None,
    capacity: float = 0.0,
    format_: Callable[[float], str] = units.number,
) -> list[Cell]:
    """Return the row for a resource of a pool: usage, share, quota and capacity."""
    text = f"of {format_(capacity)} in all" if capacity else ""
    return [
        Cell(pool),
        Cell(resource),
        Cell(format_(used), right=True),
        Cell(_limit(share, format_), right=True),
        Cell(_limit(quota, format_), right=True),
        Cell(text, html=f"{bar(used, capacity, _limited(share))} {html_text(text)}" if capacity else ""),
    ]


def _limited(amount: float | None) -> float | None:
    """Return an amount, or None if it is Cook's representation of "no limit"."""
    return None if amount is None or amount > UNLIMITED or amount == UNLIMITED_COUNT else amount


def _limit(amount: float | None, format_: Callable[[float], str]) -> str:
    limited = _limited(amount)
    return "no limit" if limited is None else format_(limited)
