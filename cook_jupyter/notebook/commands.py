"""The commands of `%cook`: their arguments and what they do.

Lives here: one function per command, with its arguments; a command returns a view, or a value.
Not here: running a cell (`notebook.magics`), resolving references to jobs (`notebook.references`).
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
    """What commands need of the notebook in which they are typed."""

    @property
    def client(self) -> JobClient:
        """Client of the scheduler, which is found or started when first needed."""

    @property
    def namespace(self) -> Mapping[str, Any]:
        """Variables of the notebook."""

    @property
    def last_key(self) -> str | None:
        """Uuid of the job that this notebook started last."""

    def write(self, text: str) -> None:
        """Print text."""

    def prompt(self, question: str) -> str | None:
        """Ask the user a question; return None without an interactive frontend."""

    def settings(self) -> list[tuple[str, str, str]]:
        """Return name, value and origin of each setting."""

    def change_settings(self, changes: Sequence[tuple[str, str]]) -> None:
        """Change settings, each given by name and value; if one is invalid, none is changed."""

    def result_of(self, key: str, timeout_s: float | None) -> Any:
        """Return the result of a job; of a cell, also set its names in the notebook."""

    def wait_for(self, keys: Sequence[str], timeout_s: float | None) -> list[JobView]:
        """Wait until jobs have ended or the time is up; return them as they are then."""


Command = Callable[[Notebook, Namespace], Any]


def show_state(notebook: Notebook) -> StateView:
    """Show the scheduler, its load, users and your latest jobs: `%cook` without a command."""
    client = notebook.client
    jobs = JobsView.of(client.recent_jobs(SHOWN_WITH_STATE), _now_ms(), "Your latest jobs")
    return StateView(client.summary(), client.url, jobs)


@takes(
    "cook list",
    argument("name", nargs="?", help="only jobs of this name; * matches any characters"),
    argument(
        "--state",
        choices=STATES,
        metavar="STATE",
        action="append",
        help=f"only in this state: {', '.join(STATES)}; may be repeated",
    ),
    argument("-n", "--count", type=count_from(1), default=20, help="maximum number of jobs [20]"),
    argument("--user", help="owner of the jobs [you]"),
    argument("--since", default="7d", help="only jobs submitted within this time: 30m, 12h or 7d [7d]"),
)
def list_jobs(notebook: Notebook, options: Namespace) -> JobsView:
    """Show the latest jobs, newest first.

    Example: %cook list --state running
    """
    now_ms = _now_ms()
    jobs = notebook.client.recent_jobs(
        options.count,
        user=options.user,
        states=options.state or ("waiting", "running", "completed"),
        name=options.name,
        since_ms=now_ms - int(units.parse_duration(options.since) * 1000),
    )
    return JobsView.of(jobs, now_ms, f"Jobs of {options.user}" if options.user else "Your jobs")


@takes(
    "cook wait",
    argument("jobs", nargs="*", default=[], help="ids, beginnings of ids, names or variables [the last one]"),
    argument("--timeout", help="give up after this time, such as 90s or 10m"),
)
def wait(notebook: Notebook, options: Namespace) -> Any:
    """Wait until jobs have ended. For a single cell, copy its names back and return its value.

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
    """Kill waiting or running jobs. If several match, ask which.

    Example: %cook kill 3f2a
    """
    client = notebook.client
    chosen: list[JobView] = []
    for word in options.jobs:
        try:
            chosen += find_jobs(client, [word], notebook.namespace, last=notebook.last_key, states=UNFINISHED)
        except Ambiguous as error:
            chosen += _choose(notebook, error)
    unfinished = {job.uuid: job for job in chosen if not job.is_over}
    if not unfinished:
        return "Nothing to kill: " + ("it has ended already." if chosen else "no job of yours is unfinished.")
    if len(unfinished) > 1 and not options.yes and ALL in options.jobs:
        _confirm(notebook, len(unfinished))
    client.kill(list(unfinished))
    return JobsView.of(client.jobs(list(unfinished), partial=True), _now_ms(), "Killed")


@takes(
    "cook why",
    argument(
        "job", nargs="?", default="last", help="an id, the beginning of one, a name or a variable [the last]"
    ),
)
def why(notebook: Notebook, options: Namespace) -> WhyView:
    """Show why a job waits, or how it ended, in sentences with numbers and the next step.

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
    argument("--stderr", action="store_true", help="show stderr instead of stdout"),
    argument("--attempt", type=count_from(1), help="output of this attempt, from 1 [the latest]"),
    argument("--tail", type=count_from(1), metavar="LINES", help="show only the last LINES lines"),
    argument("--follow", action="store_true", help="continue until the job ends; Ctrl-C stops reading"),
)
def logs(notebook: Notebook, options: Namespace) -> None:
    """Print the output of a job, of any of its attempts.

    Example: %cook logs sweep --stderr --tail 20
    """
    job = _find(notebook, [options.job])[0]
    instances = job.instances
    if not instances:
        raise UsageError(f"job {job.uuid[:8]} has not started yet and has no output; see %cook why")
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
            notebook.write(_decode_output(piece.data, is_own))
        else:
            text += piece.data
        if offset >= piece.size and (piece.ended or not options.follow):
            break
    if not options.follow:
        lines = _decode_output(text, is_own).splitlines(keepends=True)
        notebook.write("".join(lines[-options.tail :] if options.tail else lines))


@takes(
    "cook result",
    argument(
        "job", nargs="?", default="last", help="an id, the beginning of one, a name or a variable [the last]"
    ),
    argument("--timeout", help="wait up to this time, such as 90s or 10m [do not wait]"),
)
def result(notebook: Notebook, options: Namespace) -> Any:
    """Return the result of a job, even after a restart of the kernel. Also copies a cell's names back.

    Example: best = %cook result 3f2a
    """
    job = _find(notebook, [options.job])[0]
    if not job.is_call:
        raise UsageError(f"a shell command has no result; see its output: %cook logs {job.uuid[:8]}")
    timeout_s = units.parse_optional_duration(options.timeout)
    if not job.is_over and timeout_s is None:
        raise UsageError(f"it has not ended yet ({job.line()}); wait with: %cook wait {job.uuid[:8]}")
    return notebook.result_of(job.uuid, timeout_s)


@takes(
    "cook usage",
    argument("user", nargs="?", help="the user [you]"),
)
def usage(notebook: Notebook, options: Namespace) -> UsageView:
    """Show the usage of a user, with share and quota.

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
    argument("change", nargs="*", metavar="NAME=VALUE", help="settings to change for this notebook"),
)
def config(notebook: Notebook, options: Namespace) -> SettingsView:
    """Show the settings and their origin; or change some for this notebook, and show those.

    IPython's equivalent: %config CookMagics.mem_mb = 2000

    Example: %cook config mem_mb=2000 cpus=2
    """
    changes: list[tuple[str, str]] = []
    for change in options.change:
        name, separator, value = change.partition("=")
        if not separator:
            raise UsageError(f"write NAME=VALUE, not {change!r}")
        changes.append((name.strip(), value.strip()))
    if changes:
        notebook.change_settings(changes)
        changed = {name for name, _ in changes}
        rows = [row for row in notebook.settings() if row[0] in changed]
        return SettingsView(tuple(rows), "All of them: %cook config")
    path = config_file()
    state = "exists" if path is not None and path.exists() else "does not exist"
    rows = [
        *notebook.settings(),
        ("home", str(home_folder()), "COOK_JUPYTER_HOME or its default"),
        ("file", str(path), state),
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
    """Return the help of one command, or the list of commands.

    Raises:
        UsageError: there is no such command.
    """
    if name:
        return help_of(command_named(name))
    width = max(map(len, COMMANDS))
    lines = [
        f"  %cook {command_name:<{width}}  {summary_of(command)}"
        for command_name, command in COMMANDS.items()
    ]
    return "\n".join(
        [
            f"  %cook {'':<{width}}  Show the scheduler, running and waiting users, and your latest jobs.",
            *lines,
            f"  %%cook{'':<{width}}  Run the cell as a job; %%cook? lists its options.",
            "",
            "More on a command: %cook help list, or %cook list?",
        ]
    )


def command_named(name: str) -> Command:
    """Return the command with a name.

    Raises:
        UsageError: there is none; the message suggests the nearest.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean %cook {near[0]}?" if near else "%cook help lists the commands"
    raise UsageError(f"there is no %cook {name}; {hint}")


def _decode_output(output: bytes, is_own: bool) -> str:
    """Decode the output of a job; another user's control characters must not reach the terminal."""
    text = output.decode("utf-8", "replace")
    return text if is_own else printable(text, lines=True)


def _summary(client: JobClient) -> SummaryAnswer | None:
    """Return the usage of all users; None from an original Cook, which does not have it."""
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
    """Ask which of several jobs is meant; without an interactive user, raise the error."""
    numbered = "\n".join(f"{number}: {job.line()}" for number, job in enumerate(error.candidates, 1))
    answer = notebook.prompt(f"Which one? (number, `all`, or nothing to kill none)\n{numbered}\n")
    if answer is None:
        raise error
    answer = answer.strip().lower()
    if answer == ALL:
        return list(error.candidates)
    if answer.isdigit() and 1 <= int(answer) <= len(error.candidates):
        return [error.candidates[int(answer) - 1]]
    return []


def _confirm(notebook: Notebook, count: int) -> None:
    answer = notebook.prompt(f"Kill {counted(count, 'job')}? [y/N] ")
    if answer is None:
        raise UsageError(f"to kill {counted(count, 'job')} without confirmation: %cook kill all --yes")
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was killed")


def _next_step(job: JobView) -> tuple[str, ...]:
    latest = job.latest
    if job.state == "success" or latest is None:
        return ()
    if latest.reason == reasons.MEMORY_LIMIT_EXCEEDED or "memory" in latest.reason_text.lower():
        return (f"It requested {units.memory(job.job.mem_mb)}: give it more with --mem.",)
    return (f"Its output: %cook logs {job.uuid[:8]} --stderr",)


def _now_ms() -> int:
    return int(time.time() * 1000)
