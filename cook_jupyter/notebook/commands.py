"""The commands of `%cook`: what each takes and does.

Lives here: one function per command, with its arguments; a command returns a view, or a value.
Not here: running a cell (`notebook.magics`), finding the jobs that are meant (`notebook.references`).
"""

import difflib
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from IPython.core.error import UsageError

from cook_jupyter.client.answers import SummaryAnswer
from cook_jupyter.client.home import config_file, home_folder
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import CookError
from cook_jupyter.model import reason as reasons
from cook_jupyter.model.counts import counted
from cook_jupyter.model.printable import printable
from cook_jupyter.notebook import units
from cook_jupyter.notebook.arguments import argument, count_from, help_of, summary_of, takes
from cook_jupyter.notebook.job_views import JobsView, JobView, how_it_ended
from cook_jupyter.notebook.references import ALL, Ambiguous, find_job, find_jobs
from cook_jupyter.notebook.views import SettingsView, StateView, UsageView, WhyView

STATES = ("waiting", "running", "success", "failed", "completed")
UNFINISHED = ("waiting", "running")
SHOWN_WITH_STATE = 5
LOG_PIECE_BYTES = 1024 * 1024


class Notebook(Protocol):
    """What commands need of the notebook they are typed in."""

    @property
    def client(self) -> JobClient:
        """The scheduler; it is found, or started, when first asked for."""

    @property
    def namespace(self) -> Mapping[str, Any]:
        """The notebook's variables."""

    @property
    def last_key(self) -> str | None:
        """The job that this notebook started last."""

    def write(self, text: str) -> None:
        """Print."""

    def asks(self, question: str) -> str | None:
        """The answer of whoever sits there; None if nobody does."""

    def settings(self) -> list[tuple[str, str, str]]:
        """Name, value and origin of each setting."""

    def change_settings(self, changes: Sequence[tuple[str, str]]) -> None:
        """Set some, each given by name and value; all of them, or none."""

    def result_of(self, key: str, timeout_s: float | None) -> Any:
        """What a job gave back; a cell's names are brought back with it."""

    def wait_for(self, keys: Sequence[str], timeout_s: float | None) -> list[JobView]:
        """The jobs once all have ended, or as they are when time is up."""


Command = Callable[[Notebook, Namespace], Any]


def show_state(notebook: Notebook) -> StateView:
    """The scheduler, what is used, who runs and waits, one's latest jobs: `%cook` alone."""
    client = notebook.client
    jobs = JobsView.of(client.recent_jobs(SHOWN_WITH_STATE), _now_ms(), "Your latest jobs")
    return StateView(client.summary(), client.url, jobs)


@takes(
    "cook list",
    argument("name", nargs="?", help="only jobs of this name; * stands for any letters"),
    argument(
        "--state",
        choices=STATES,
        metavar="STATE",
        action="append",
        help=f"only in this state: {', '.join(STATES)}; may be repeated",
    ),
    argument("-n", "--count", type=count_from(1), default=20, help="at most so many [20]"),
    argument("--user", help="whose jobs [yours]"),
    argument("--since", default="7d", help="none older than this, such as 30m, 12h or 7d [7d]"),
)
def list_jobs(notebook: Notebook, options: Namespace) -> JobsView:
    """Show the latest jobs, newest first.

    Example: %cook list --state running
    """
    now_ms = _now_ms()
    found = notebook.client.recent_jobs(
        options.count,
        user=options.user,
        states=options.state or ("waiting", "running", "completed"),
        name=options.name,
        since_ms=now_ms - int(units.parse_duration(options.since) * 1000),
    )
    return JobsView.of(found, now_ms, f"Jobs of {options.user}" if options.user else "Your jobs")


@takes(
    "cook wait",
    argument("jobs", nargs="*", default=[], help="ids, beginnings of ids, names or variables [the last one]"),
    argument("--timeout", help="give up after so long, such as 90s or 10m"),
)
def wait(notebook: Notebook, options: Namespace) -> Any:
    """Wait until jobs have ended. Of a single cell, bring its names back and return its value.

    Ctrl-C ends the waiting, not the jobs.

    Example: %cook wait sweep --timeout 10m
    """
    timeout_s = units.parse_optional_duration(options.timeout)
    keys = [job.uuid for job in _find(notebook, options.jobs or ["last"])]
    jobs = notebook.wait_for(keys, timeout_s)
    if any(not job.is_over for job in jobs):
        notebook.write(f"Not all have ended after {options.timeout}.\n")
    elif len(jobs) == 1 and jobs[0].is_call:
        return notebook.result_of(jobs[0].uuid, timeout_s)
    return JobsView(tuple(jobs), _now_ms(), "Waited for")


@takes(
    "cook kill",
    argument("jobs", nargs="+", help="ids, beginnings of ids, names or variables; `last`, or `all` of yours"),
    argument("-y", "--yes", action="store_true", help="do not ask before killing several"),
)
def kill(notebook: Notebook, options: Namespace) -> Any:
    """Kill jobs, waiting or running. Where several may be meant it asks which.

    Example: %cook kill 3f2a
    """
    client = notebook.client
    chosen: list[JobView] = []
    for word in options.jobs:
        try:
            chosen += find_jobs(client, [word], notebook.namespace, last=notebook.last_key, states=UNFINISHED)
        except Ambiguous as error:
            chosen += _choose(notebook, error)
    alive = {job.uuid: job for job in chosen if not job.is_over}
    if not alive:
        return "Nothing to kill: " + ("it has ended already." if chosen else "no job of yours is unfinished.")
    if len(alive) > 1 and not options.yes and ALL in options.jobs:
        _confirm(notebook, len(alive))
    client.kill(list(alive))
    return JobsView.of(client.jobs(list(alive), partial=True), _now_ms(), "Killed")


@takes(
    "cook why",
    argument(
        "job", nargs="?", default="last", help="an id, the beginning of one, a name or a variable [the last]"
    ),
)
def why(notebook: Notebook, options: Namespace) -> WhyView:
    """Say why a job waits, or how it ended, in sentences with numbers and the next step.

    Example: %cook why 3f2a
    """
    job = _find(notebook, [options.job])[0]
    if job.is_over:
        return WhyView(job, (how_it_ended(job), *_next_step(job)))
    sentences = notebook.client.why(job.uuid).sentences
    return WhyView(job, sentences, _summary(notebook.client) if job.state == "waiting" else None)


@takes(
    "cook logs",
    argument(
        "job", nargs="?", default="last", help="an id, the beginning of one, a name or a variable [the last]"
    ),
    argument("--stderr", action="store_true", help="what it wrote to stderr, not stdout"),
    argument("--attempt", type=count_from(1), help="of this attempt, from 1 on [the latest]"),
    argument("--tail", type=count_from(1), metavar="LINES", help="only the last so many lines"),
    argument("--follow", action="store_true", help="go on until the job ends; Ctrl-C stops reading"),
)
def logs(notebook: Notebook, options: Namespace) -> None:
    """Print what a job wrote, of any of its attempts.

    Example: %cook logs sweep --stderr --tail 20
    """
    job = _find(notebook, [options.job])[0]
    instances = job.instances
    if not instances:
        raise UsageError(f"job {job.uuid[:8]} has not started yet, so it wrote nothing; %cook why tells more")
    attempt = options.attempt or len(instances)
    if not 1 <= attempt <= len(instances):
        raise UsageError(f"job {job.uuid[:8]} had {counted(len(instances), 'attempt')}")
    instance = instances[attempt - 1].uuid
    stream = "stderr" if options.stderr else "stdout"
    client, offset, text = notebook.client, 0, b""
    is_own = job.job.user == client.user
    while True:
        piece = client.logs(
            instance, stream=stream, offset=offset, length=LOG_PIECE_BYTES, wait_s=10 if options.follow else 0
        )
        offset = piece.next_offset
        if options.follow:
            notebook.write(_shown(piece.data, is_own))
        else:
            text += piece.data
        if offset >= piece.size and (piece.ended or not options.follow):
            break
    if not options.follow:
        lines = _shown(text, is_own).splitlines(keepends=True)
        notebook.write("".join(lines[-options.tail :] if options.tail else lines))


@takes(
    "cook result",
    argument(
        "job", nargs="?", default="last", help="an id, the beginning of one, a name or a variable [the last]"
    ),
    argument("--timeout", help="wait for it so long, such as 90s or 10m [do not wait]"),
)
def result(notebook: Notebook, options: Namespace) -> Any:
    """Return what a job gave back; also after a restart of the kernel. A cell's names come with it.

    Example: best = %cook result 3f2a
    """
    job = _find(notebook, [options.job])[0]
    if not job.is_call:
        raise UsageError(f"a shell command gives nothing back; what it wrote: %cook logs {job.uuid[:8]}")
    timeout_s = units.parse_optional_duration(options.timeout)
    if not job.is_over and timeout_s is None:
        raise UsageError(f"it has not ended yet ({job.line()}); wait with: %cook wait {job.uuid[:8]}")
    return notebook.result_of(job.uuid, timeout_s)


@takes(
    "cook usage",
    argument("user", nargs="?", help="whose [yours]"),
)
def usage(notebook: Notebook, options: Namespace) -> UsageView:
    """Show what you, or somebody else, hold now, beside share and quota.

    Example: %cook usage grace
    """
    client = notebook.client
    user = options.user or client.user
    summary = _summary(client)
    users = () if summary is None else summary.users
    return UsageView(
        user=user,
        usage=client.usage(user),
        share=client.share(user),
        quota=client.quota(user),
        capacity=None if summary is None else summary.capacity,
        summary=next((row for row in users if row.user == user), None),
    )


@takes(
    "cook config",
    argument("change", nargs="*", metavar="NAME=VALUE", help="what to set in this notebook"),
)
def config(notebook: Notebook, options: Namespace) -> SettingsView:
    """Show the settings and where they come from; or set some for this notebook, and show those.

    The same by IPython's own means: %config CookMagics.mem_mb = 2000

    Example: %cook config mem_mb=2000 cpus=2
    """
    changes: list[tuple[str, str]] = []
    for change in options.change:
        name, found, value = change.partition("=")
        if not found:
            raise UsageError(f"write NAME=VALUE, not {change!r}")
        changes.append((name.strip(), value.strip()))
    if changes:
        notebook.change_settings(changes)
        changed = {name for name, _ in changes}
        rows = [row for row in notebook.settings() if row[0] in changed]
        return SettingsView(tuple(rows), "All of them: %cook config")
    path = config_file()
    place = "it exists" if path is not None and path.exists() else "not there"
    rows = [
        *notebook.settings(),
        ("home", str(home_folder()), "COOK_JUPYTER_HOME or its default"),
        ("file", str(path), place),
    ]
    return SettingsView(tuple(rows), "Set one with: %cook config mem_mb=2000")


COMMANDS: Mapping[str, Command] = {
    "list": list_jobs,
    "wait": wait,
    "kill": kill,
    "why": why,
    "logs": logs,
    "result": result,
    "usage": usage,
    "config": config,
}


def help_text(name: str | None = None) -> str:
    """How to use one command, or which there are.

    Raises:
        UsageError: there is no such command.
    """
    if name:
        return help_of(command_named(name))
    width = max(map(len, COMMANDS))
    lines = [f"  %cook {each:<{width}}  {summary_of(command)}" for each, command in COMMANDS.items()]
    return "\n".join(
        [
            f"  %cook {'':<{width}}  The state of things: who runs, who waits, your latest jobs.",
            *lines,
            f"  %%cook{'':<{width}}  Run the cell as a job; %%cook? tells its options.",
            "",
            "More on each: %cook help list, or %cook list?",
        ]
    )


def command_named(name: str) -> Command:
    """The command of that name.

    Raises:
        UsageError: there is none; the nearest is named.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean %cook {near[0]}?" if near else "%cook help tells which there are"
    raise UsageError(f"there is no %cook {name}; {hint}")


def _shown(output: bytes, is_own: bool) -> str:
    """Return what a job wrote as text; somebody else's output must not reach the terminal as it is."""
    text = output.decode("utf-8", "replace")
    return text if is_own else printable(text, lines=True)


def _summary(client: JobClient) -> SummaryAnswer | None:
    """Who holds what; None from an original Cook, which does not tell."""
    try:
        return client.summary()
    except CookError:
        return None


def _find(notebook: Notebook, words: Sequence[str]) -> list[JobView]:
    client = notebook.client
    if len(words) == 1 and words[0] != ALL:
        return [find_job(client, words[0], notebook.namespace, last=notebook.last_key)]
    return find_jobs(client, words, notebook.namespace, last=notebook.last_key)


def _choose(notebook: Notebook, error: Ambiguous) -> list[JobView]:
    """Ask which of several; who cannot be asked is told to say more."""
    numbered = "\n".join(f"{place}: {job.line()}" for place, job in enumerate(error.candidates, 1))
    answer = notebook.asks(f"Which one? (number, `all`, or nothing to kill none)\n{numbered}\n")
    if answer is None:
        raise error
    answer = answer.strip().lower()
    if answer == ALL:
        return list(error.candidates)
    if answer.isdigit() and 1 <= int(answer) <= len(error.candidates):
        return [error.candidates[int(answer) - 1]]
    return []


def _confirm(notebook: Notebook, count: int) -> None:
    answer = notebook.asks(f"Kill {counted(count, 'job')}? [y/N] ")
    if answer is None:
        raise UsageError(f"to kill {counted(count, 'job')} without being asked: %cook kill all --yes")
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was killed")


def _next_step(job: JobView) -> tuple[str, ...]:
    latest = job.latest
    if job.state == "success" or latest is None:
        return ()
    if latest.reason == reasons.MEMORY_LIMIT_EXCEEDED or "memory" in latest.reason_text.lower():
        return (f"It asked for {units.memory(job.job.mem_mb)}: give it more with --mem.",)
    return (f"What it wrote: %cook logs {job.uuid[:8]} --stderr",)


def _now_ms() -> int:
    return int(time.time() * 1000)
