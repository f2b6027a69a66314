"""What `%cook` shows besides jobs: the state of things, reasons, usage, settings, with text and HTML.

Lives here: one frozen view per question, made of a scheduler's answers at one moment. Showing it again asks
nobody: it says of when it is.
Not here: jobs (`notebook.job_views`), asking (`notebook.commands`), colours and tables (`notebook.look`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cook_jupyter.model.counts import counted
from cook_jupyter.model.limits import UNLIMITED_COUNT, UNLIMITED_LAUNCH_RATE_PER_MINUTE
from cook_jupyter.model.printable import printable
from cook_jupyter.notebook import units
from cook_jupyter.notebook.job_views import SHORT_ID, JobsView, JobView
from cook_jupyter.notebook.look import Cell, bar, card, html_text, paragraph, table, text_table

UNLIMITED = 1e300  # Cook says "no limit" with the largest double
USERS_TOLD = 5
STANDINGS = {
    "starved": "waits, and holds less than its share",
    "hungry": "waits, and holds its share or more",
    "satisfied": "waits for nothing",
}


@dataclass(frozen=True, slots=True)
class StateView:
    """The state of things: the scheduler, what is used, who runs and waits, one's latest jobs."""

    summary: Mapping[str, Any]
    where: str
    jobs: JobsView

    def __repr__(self) -> str:
        lines = [printable(self._head), f"  {self._used}"]
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
            f"<div>{bar(used['cpus'], capacity['cpus'])} {html_text(self._used)}</div>",
        ]
        if self.summary["users"]:
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
        return f"cook_jupyter at {self.where}, as {self.summary['user']}"

    @property
    def _used(self) -> str:
        used, capacity = self.summary["used"], self.summary["capacity"]
        hosts = int(capacity.get("hosts", 1))
        return (
            f"{units.number(used['cpus'])} of {units.cpus(capacity['cpus'])} and "
            f"{units.memory(used['mem'])} of {units.memory(capacity['mem'])} in use on "
            f"{counted(hosts, 'host')}; {counted(self.summary['running'], 'job')} running, "
            f"{self.summary['waiting']:,} waiting"
        )

    def _user_rows(self) -> list[list[Cell]]:
        rows = []
        for user in self.summary["users"]:
            share, dru = user.get("share_cpus"), user.get("dru")
            unlimited = share is None or share > UNLIMITED
            you = " (you)" if user["user"] == self.summary["user"] else ""
            said = [str(user["standing"])] if user.get("standing") else []
            if not unlimited and dru is not None and dru > 1:
                said.append("over the share")
            rows.append(
                [
                    Cell(f"{user['user']}{you}"),
                    Cell(f"{user['running']:,}", right=True),
                    Cell(f"{user['waiting']:,}", right=True),
                    Cell(units.number(user["cpus"]), right=True),
                    Cell("no limit" if unlimited else units.number(share), right=True),
                    Cell("" if dru is None else f"{dru:.2f}", right=True),
                    Cell(", ".join(said), title=STANDINGS.get(user.get("standing", ""), "")),
                ]
            )
        return rows


@dataclass(frozen=True, slots=True)
class WhyView:
    """Why a job is where it is, in sentences; of one that waits also who holds what meanwhile."""

    job: JobView
    sentences: tuple[str, ...]
    summary: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        said = [*self.sentences, *self._held]
        return "\n".join([self.job.line(), *(f"  {printable(sentence)}" for sentence in said)])

    def _repr_html_(self) -> str:
        short = html_text(self.job.uuid[:SHORT_ID])
        head = f"{self.job.mark.html} {html_text(self.job.name)} <code>{short}</code>"
        # Of a job that waits or is over the sentences tell what the note would.
        note = [paragraph(self.job.note, faint=True)] if self.job.state == "running" and self.job.note else []
        said = [paragraph(sentence) for sentence in self.sentences]
        return card(head, *note, *said, *(paragraph(sentence, faint=True) for sentence in self._held))

    @property
    def _held(self) -> list[str]:
        """Who holds the cpus now, most first."""
        if self.summary is None:
            return []
        holders = sorted(
            (user for user in self.summary["users"] if user["running"]),
            key=lambda user: (-user["cpus"], user["user"]),
        )
        told = []
        for user in holders[:USERS_TOLD]:
            name = f"{user['user']} (you)" if user["user"] == self.summary["user"] else user["user"]
            share = user.get("share_cpus")
            limit = "" if share is None or share > UNLIMITED else f", share {units.number(share)}"
            told.append(f"{name} {units.number(user['cpus'])}{limit}")
        if not told:
            return []
        if len(holders) > USERS_TOLD:
            told.append(f"{counted(len(holders) - USERS_TOLD, 'other user')} the rest")
        return [f"In use of {units.cpus(self.summary['capacity']['cpus'])}: {'; '.join(told)}."]


@dataclass(frozen=True, slots=True)
class UsageView:
    """What a user holds, beside share and quota, in one pool after the other.

    Attributes:
        standing: of the user, out of the summary; empty if nothing is known.
    """

    user: str
    usage: Mapping[str, Any]
    share: Mapping[str, Any]
    quota: Mapping[str, Any]
    capacity: Mapping[str, Any]
    standing: Mapping[str, Any] = field(default_factory=dict)

    _columns = ("pool", "resource", "in use", "share", "quota", "")

    def __repr__(self) -> str:
        lines = [printable(self._head), *([f"  {printable(self._stands)}"] if self._stands else [])]
        return "\n".join([*lines, text_table(self._columns, self._rows())])

    def _repr_html_(self) -> str:
        stands = [paragraph(self._stands)] if self._stands else []
        return card(html_text(self._head), *stands, table(self._columns, self._rows(), caption=self._head))

    @property
    def _head(self) -> str:
        return f"Usage of {self.user}"

    @property
    def _stands(self) -> str:
        """How the user stands, in words."""
        said = []
        if word := self.standing.get("standing"):
            said.append(f"{word} ({STANDINGS.get(word, '')})")
        if (dru := self.standing.get("dru")) is not None:
            said.append(f"DRU {dru:.2f}")
            if dru > 1:
                said.append("over the share: running jobs may be preempted for users below theirs")
        return " · ".join(said)

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
                        Cell(text, html=f"{drawn} {html_text(text)}" if whole else ""),
                    ]
                )
            rate = quota.get("launch-rate-per-minute", UNLIMITED_LAUNCH_RATE_PER_MINUTE)
            if rate != UNLIMITED_LAUNCH_RATE_PER_MINUTE:
                saved = f"up to {units.number(quota['launch-rate-saved'])} saved"
                cells = [Cell(pool), Cell("starts per minute"), Cell("", right=True), Cell("", right=True)]
                rows.append([*cells, Cell(units.number(rate), right=True), Cell(saved)])
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


def _limit(value: float | None, say: Any) -> str:
    return "no limit" if value is None or value > UNLIMITED or value == UNLIMITED_COUNT else str(say(value))
