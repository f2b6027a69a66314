"""`%cook` and `%%cook`.

Lives here: the magics, their settings (`%config CookMagics`), and how a cell becomes a job.
Not here: what `%cook list` and its like do (`notebook.commands`), what runs on the host
(`notebook.cell_job`), watching it (`notebook.cell_run`).
"""

import difflib
import keyword
import linecache
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class
from traitlets import Bunch, TraitError, validate

from cook_jupyter.client.caller import authorization
from cook_jupyter.client.connect import configured_target, named_environment
from cook_jupyter.errors import (
    Conflict,
    CookError,
    InvalidRequest,
    JobFailed,
    OutOfMemory,
    SchedulerUnreachable,
    TimedOut,
    Unpicklable,
)
from cook_jupyter.executor.future import CookFuture
from cook_jupyter.executor.groups import Group
from cook_jupyter.executor.options import variable_names
from cook_jupyter.executor.outcomes import without_advice
from cook_jupyter.model.job import DEFAULT_PRIORITY, HIGHEST_PRIORITY
from cook_jupyter.notebook import cell_analysis as cells
from cook_jupyter.notebook import commands, units
from cook_jupyter.notebook.arguments import amount, argument, count_from, parsed, takes
from cook_jupyter.notebook.cell_job import run_cell
from cook_jupyter.notebook.cell_run import CellRun
from cook_jupyter.notebook.references import wait_until_accepted
from cook_jupyter.notebook.rendering import MARKS
from cook_jupyter.notebook.screen import Screen, StateLine
from cook_jupyter.notebook.session import BackgroundCell, NotebookSession
from cook_jupyter.notebook.setting_types import Amount, Choice, Count, Text
from cook_jupyter.notebook.traceback_text import short_traceback, show_as
from cook_jupyter.payload.encoding import encode_function

_MORE: dict[type[CookError], str] = {OutOfMemory: "--mem 4g", TimedOut: "--max-runtime 1h"}

DEFAULT_BACKGROUND = "job"


@magics_class
class CookMagics(Magics):
    """Settings of `%%cook`; an option of a cell comes before them."""

    cpus = Amount(1.0, help="Cpus that a cell asks for.").tag(config=True)
    mem_mb = Amount(1024.0, help="Memory that a cell asks for, in MiB.").tag(config=True)
    gpus = Count(0, help="Gpus that a cell asks for.").tag(config=True)
    pool = Text("", help="The pool of jobs; empty means the scheduler's default.").tag(config=True)
    priority = Count(
        DEFAULT_PRIORITY, most=HIGHEST_PRIORITY, help="Among your own jobs, the higher first."
    ).tag(config=True)
    retries = Count(0, help="Further attempts when a cell fails.").tag(config=True)
    user = Text("", help="Act as this user, to try fairness out.").tag(config=True)
    environment = Text(
        "",
        help="Names of variables of the notebook that jobs see, such as DATA_DIR,AWS_*; empty: those that "
        "COOK_JUPYTER_ENVIRONMENT or the configuration file names.",
    ).tag(config=True)
    on_interrupt = Choice(
        ("kill", "detach"), "kill", help="What Ctrl-C does to the job of a cell: kill it, or let it go on."
    ).tag(config=True)
    progress = Choice(
        ("auto", "always", "never"), "auto", help="Whether a line tells how a cell is doing."
    ).tag(config=True)

    @validate("user")
    def _carried_by_requests(self, proposal: Bunch) -> str:
        """Refuse a user name that no request can carry; an empty one means oneself."""
        name = str(proposal["value"])
        try:
            authorization(None, name or None)
        except InvalidRequest as error:
            raise TraitError(str(error)) from error
        return name

    @validate("environment")
    def _names_of_variables(self, proposal: Bunch) -> str:
        """Refuse what names no variable."""
        names = str(proposal["value"])
        try:
            variable_names(names)
        except InvalidRequest as error:
            raise TraitError(str(error)) from error
        return names

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell=shell)
        self._notebook = shell
        self.session = NotebookSession(shell, self)
        self._cell_number = 0

    @line_cell_magic
    @takes(
        "%cook",
        argument("--cpus", type=amount, help="cpus of one host; a fraction is fine"),
        argument("--mem", help="memory, such as 500m or 4g; a bare number is MB"),
        argument("--gpus", type=count_from(0), help="whole gpus"),
        argument("--name", help="the job's name, to find it by"),
        argument("--pool", help="the pool of hosts"),
        argument(
            "--priority", type=count_from(0), help="0 to 16,000,000 among your own jobs; the higher first"
        ),
        argument("--retries", type=count_from(0), help="further attempts when it fails"),
        argument("--max-runtime", help="stop it after so long, such as 10m or 2h"),
        argument(
            "--expected-runtime",
            help="how long it is likely to run: a short job may use room that is kept for a larger one",
        ),
        argument(
            "--constraint",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="only on a host with this attribute, such as HOSTNAME=a17; may be repeated",
        ),
        argument("--group", help="the group it joins: a variable that holds a Group, or a uuid"),
        argument("--out", action="extend", nargs="+", default=[], help="bring these names back: --out a,b"),
        argument(
            "--in",
            dest="also",
            action="extend",
            nargs="+",
            default=[],
            help="send these names, too: --in a,b",
        ),
        argument(
            "--background",
            nargs="?",
            const=DEFAULT_BACKGROUND,
            metavar="NAME",
            help=f"do not wait: NAME [{DEFAULT_BACKGROUND}] holds the future",
        ),
    )
    def cook(self, line: str, cell: str | None = None) -> Any:
        """Run the cell as a job on the scheduler.

        The names it uses travel with it; its last value, what it prints and displays come back, and the names
        after --out. Without a cell, %cook shows the state of things; %cook help tells its commands.

        Example: %%cook --mem 4g --out model
        """
        try:
            if cell is not None:
                return self._run(line, cell)
            known = self.session.existing_client
            try:
                return self._command(line)
            except SchedulerUnreachable:
                if known is None:
                    raise
                self.session.find_again()  # it may have been restarted at another address
                return self._command(line)
        except CookError as error:
            if isinstance(error, JobFailed):
                _advise(error)
            raise show_as(error, _in_short(error)) from error.__cause__

    # --- commands ---

    def _command(self, line: str) -> Any:
        name, _, rest = line.strip().partition(" ")
        if not name:
            return commands.show_state(self.session)
        if name == "help":
            self.session.write(commands.help_text(rest.strip()) + "\n")
            return None
        if name.startswith("-"):
            raise UsageError(f"{name} is an option of a cell: begin a cell with %%cook {line.strip()}")
        command = commands.command_named(name)
        return command(self.session, parsed(command, rest))

    # --- a cell as a job ---

    def _run(self, line: str, source: str) -> Any:
        options = parsed(type(self).cook, line)
        out, also = _names(options.out), _names(options.also)
        background = options.background
        if background is not None and not _is_variable(background):
            raise UsageError(f"--background wants the name of a variable, not {background!r}")
        source = self._notebook.transform_cell(source)  # type: ignore[no-untyped-call]
        needed = cells.names_needed(source, self.session.namespace)
        asked_for = self._require_names(also)
        names = sorted({*needed.always, *needed.perhaps, *asked_for})
        try:
            future, file_name = self._submit(options, source, names, out)
        except Unpicklable:
            # What the cell binds itself is not asked of the notebook if it cannot travel.
            left_out = self._unsendable([name for name in needed.perhaps if name not in asked_for])
            if not left_out:
                encode_function(cells.anchor(names, self.session.namespace))  # the refusal, naming the cell
                raise
            names = [name for name in names if name not in left_out]
            future, file_name = self._submit(options, source, names, out, left_out)
        if background is not None:
            # When the cell returns, the scheduler has the job: the notebook may be closed then.
            wait_until_accepted(future)
            if future.done() and isinstance(refusal := future.exception(), InvalidRequest | Conflict):
                raise refusal
            started = BackgroundCell(future, future.name, self.session.take)
            self.session.started(future.key, started)
            self.session.namespace[background] = started
            return started
        self.session.started(future.key)
        return self._await(future, file_name)

    def _submit(
        self,
        options: Namespace,
        source: str,
        needed: list[str],
        out: Sequence[str],
        left_out: Mapping[str, str] | None = None,
    ) -> tuple[CookFuture, str]:
        self._cell_number += 1
        number = self._number_of_cell()
        file_name = f"<%%cook cell {number}.{self._cell_number}>"
        linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
        executor = self.session.executor.with_(
            cpus=_or(options.cpus, self.cpus),
            mem_mb=self.mem_mb if options.mem is None else units.parse_memory(options.mem),
            gpus=_or(options.gpus, self.gpus),
            pool=_or(options.pool, self.pool) or None,
            priority=_or(options.priority, self.priority),
            retries=_or(options.retries, self.retries),
            group=self._group(options.group),
            constraints=_pairs(options.constraint),
            max_runtime_s=units.parse_optional_duration(options.max_runtime),
            expected_runtime_s=units.parse_optional_duration(options.expected_runtime),
            name=options.name or f"cell-{number}",
            environment=self.environment or named_environment(),
        )
        future: CookFuture = executor.submit(
            run_cell,
            cells.anchor(needed, self.session.namespace),
            source,
            file_name,
            out=tuple(out),
            with_value=cells.ends_with_value(source),
            left_out=dict(left_out or {}),
        )
        return future, file_name

    def _number_of_cell(self) -> int:
        """Return the number in the prompt of the cell that runs; `execution_count` may be the next one's."""
        history = self._notebook.history_manager
        return len(history.input_hist_parsed) - 1 if history is not None else 0

    def _unsendable(self, names: Sequence[str]) -> dict[str, str]:
        """Return those of the notebook's names whose values cannot travel, and why."""
        reasons: dict[str, str] = {}
        for name in names:
            try:
                encode_function(cells.anchor([name], self.session.namespace))
            except Unpicklable as error:
                reasons[name] = str(error)
        return reasons

    def _await(self, future: CookFuture, file_name: str) -> Any:
        screen = self.session.screen(live=self._shows_progress())
        run = CellRun(future, self.session, screen)
        short = f"{future.name} <{future.key[:8]}>"
        try:
            run.watch()
        except KeyboardInterrupt as interrupt:
            self._interrupted(future, screen, short, interrupt)
        error = future.exception()
        if screen.shows_state:
            screen.end(run.last_line())
        if error is None:
            return self.session.take(future.result())
        for bundle in getattr(error, "__cook_displays__", ()):
            screen.show(bundle)
        if isinstance(error, CookError):
            raise error
        where = f"in job {short}" + (f" on {future.host}" if future.host else "")
        raise show_as(error, short_traceback(error, file_name, where))

    def _interrupted(
        self, future: CookFuture, screen: Screen, short: str, interrupt: KeyboardInterrupt
    ) -> NoReturn:
        if self.on_interrupt == "kill":
            future.kill()
            said = f"KeyboardInterrupt: {short} was killed"
            screen.end(StateLine(MARKS["killed"], short))
        else:
            said = f"KeyboardInterrupt: {short} goes on; get its result with %cook wait {future.key[:8]}"
            screen.end(StateLine(MARKS[_known_state(future)], f"{short} goes on"))
        raise show_as(interrupt, [said]) from None

    def _require_names(self, names: Sequence[str]) -> list[str]:
        missing = [name for name in names if name not in self.session.namespace]
        if missing:
            raise UsageError(f"--in {','.join(missing)}: there is no such name in the notebook")
        return list(names)

    def _group(self, word: str | None) -> Group | str | None:
        """The group that is meant by the name of a variable, or by a uuid."""
        found = word if word is None else self.session.namespace.get(word, word)
        if found is not None and not isinstance(found, Group | str):
            raise UsageError(f"--group {word}: it holds no Group, but {type(found).__name__}")
        return found

    def _shows_progress(self) -> bool:
        return self.progress == "always" or (self.progress == "auto" and self.session.watched)

    # --- settings ---

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value and origin of each setting."""
        try:
            target = configured_target()
            url, origin = (
                target.url or "this user's own scheduler",
                target.origin if target.url else "default",
            )
        except CookError as error:
            url, origin = "?", str(error)
        rows = [("url", url, origin)]
        for name in self._setting_names():
            value = getattr(self, name)
            if name == "environment" and not value and (named := named_environment()):
                rows.append((name, named, "COOK_JUPYTER_ENVIRONMENT or the configuration file"))
                continue
            given = "default" if value == self.traits()[name].default_value else "set in this notebook"
            rows.append((name, str(value) or "(none)", given))
        return rows

    def change(self, changes: Sequence[tuple[str, str]]) -> None:
        """Set some from text; all of them, or none.

        Args:
            changes: of each the name and the value.

        Raises:
            UsageError: there is no such setting, or a value is not one for it.
        """
        before = {name: getattr(self, name) for name in self._setting_names()}
        try:
            for name, value in changes:
                self._change(name, value)
        except UsageError:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _change(self, name: str, value: str) -> None:
        names = self._setting_names()
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(names)}"
            raise UsageError(f"there is no setting {name!r}; {hint}")
        try:
            given = units.parse_memory(value) if name == "mem_mb" else self.traits()[name].from_string(value)
            setattr(self, name, given)
        except (TraitError, ValueError, InvalidRequest) as error:
            said = str(error)
            raise UsageError(said if said.startswith(f"{name} ") else f"{name}: {said}") from error

    def _setting_names(self) -> list[str]:
        return list(self.traits(config=True))


def _advise(error: JobFailed) -> None:
    """Say what to do by options and commands of cells, in place of what to do in Python."""
    text = without_advice(error)
    if text != str(error):
        if type(error) in _MORE:
            error.add_note(f"Give it more: %%cook {_MORE[type(error)]}")
        elif error.job_id:
            error.add_note(f"What it wrote: %cook logs {error.job_id[:8]} --stderr")
        error.args = (text,)


def _in_short(error: CookError) -> list[str]:
    lines = [f"\x1b[31m{type(error).__name__}\x1b[0m: {error}"]
    return lines + [str(note) for note in getattr(error, "__notes__", ())]


def _known_state(future: CookFuture) -> str:
    return future.status if future.status in MARKS else "waiting"


def _names(given: Sequence[str]) -> list[str]:
    names = [name.strip() for part in given for name in part.split(",") if name.strip()]
    wrong = [name for name in names if not _is_variable(name)]
    if wrong:
        raise UsageError(f"not the name of a variable: {', '.join(wrong)}")
    return list(dict.fromkeys(names))


def _is_variable(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, found, value = text.partition("=")
        if not (found and name and value):
            raise UsageError(f"--constraint wants NAME=VALUE, such as HOSTNAME=a17, not {text!r}")
        pairs[name] = value
    return pairs


def _or(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given
