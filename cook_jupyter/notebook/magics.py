"""The magics `%cook` and `%%cook`.

Lives here: the magics, their settings (`%config CookMagics`), and submitting a cell as a job.
Not here: commands such as `%cook list` (`notebook.commands`), what runs on the host (`notebook.cell_job`),
watching it (`notebook.cell_run`).
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
from cook_jupyter.notebook.arguments import amount, argument, count_from, parse_line, takes
from cook_jupyter.notebook.cell_job import run_cell
from cook_jupyter.notebook.cell_run import CellRun
from cook_jupyter.notebook.references import wait_until_accepted
from cook_jupyter.notebook.rendering import MARKS
from cook_jupyter.notebook.screen import Screen, StateLine
from cook_jupyter.notebook.session import BackgroundCell, NotebookSession
from cook_jupyter.notebook.setting_types import Amount, Choice, Count, Text
from cook_jupyter.notebook.traceback_text import short_traceback, show_as
from cook_jupyter.payload.encoding import encode_function

_RESOURCE_OPTIONS: dict[type[CookError], str] = {OutOfMemory: "--mem 4g", TimedOut: "--max-runtime 1h"}

DEFAULT_BACKGROUND = "job"


@magics_class
class CookMagics(Magics):
    """Settings of `%%cook`; the options of a cell take precedence."""

    cpus = Amount(1.0, help="Cpus of a cell's job.").tag(config=True)
    mem_mb = Amount(1024.0, help="Memory of a cell's job, in MiB.").tag(config=True)
    gpus = Count(0, help="Gpus of a cell's job.").tag(config=True)
    pool = Text("", help="The pool of jobs; empty means the scheduler's default.").tag(config=True)
    priority = Count(
        DEFAULT_PRIORITY, most=HIGHEST_PRIORITY, help="Among your own jobs; higher runs first."
    ).tag(config=True)
    retries = Count(0, help="Further attempts after a failure.").tag(config=True)
    user = Text("", help="Act as this user, to try fairness out.").tag(config=True)
    environment = Text(
        "",
        help="Names of variables of the notebook that jobs see, such as DATA_DIR,AWS_*; empty: those in "
        "COOK_JUPYTER_ENVIRONMENT or the configuration file.",
    ).tag(config=True)
    on_interrupt = Choice(
        ("kill", "detach"), "kill", help="What Ctrl-C does to the job of a cell: kill it, or let it run on."
    ).tag(config=True)
    progress = Choice(
        ("auto", "always", "never"), "auto", help="Whether to show a status line while a cell runs."
    ).tag(config=True)

    @validate("user")
    def _validate_user(self, proposal: Bunch) -> str:
        """Refuse a user name that cannot be sent in a request; an empty name stands for oneself."""
        name = str(proposal["value"])
        try:
            authorization(None, name or None)
        except InvalidRequest as error:
            raise TraitError(str(error)) from error
        return name

    @validate("environment")
    def _validate_environment(self, proposal: Bunch) -> str:
        """Refuse invalid names of variables."""
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
        argument("--cpus", type=amount, help="cpus on one host; may be a fraction"),
        argument("--mem", help="memory, such as 500m or 4g; a number without a unit is MB"),
        argument("--gpus", type=count_from(0), help="number of gpus"),
        argument("--name", help="name of the job"),
        argument("--pool", help="pool of hosts"),
        argument(
            "--priority", type=count_from(0), help="0 to 16,000,000 among your own jobs; higher runs first"
        ),
        argument("--retries", type=count_from(0), help="further attempts after a failure"),
        argument("--max-runtime", help="kill the job after this time, such as 10m or 2h"),
        argument(
            "--expected-runtime",
            help="expected run time: a short job may use room that is kept for a larger one",
        ),
        argument(
            "--constraint",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="only on a host with this attribute, such as HOSTNAME=a17; may be repeated",
        ),
        argument("--group", help="the group to join: a variable that holds a Group, or a uuid"),
        argument("--out", action="extend", nargs="+", default=[], help="variables to copy back: --out a,b"),
        argument(
            "--in",
            dest="also",
            action="extend",
            nargs="+",
            default=[],
            help="additional variables to send: --in a,b",
        ),
        argument(
            "--background",
            nargs="?",
            const=DEFAULT_BACKGROUND,
            metavar="NAME",
            help=f"return immediately; the variable NAME [{DEFAULT_BACKGROUND}] holds the future",
        ),
    )
    def cook(self, line: str, cell: str | None = None) -> Any:
        """Run the cell as a job on the scheduler.

        The names that the cell uses are sent with it. Its last value, its output, what it displays, and the
        names after --out are sent back. Without a cell, %cook shows the scheduler; %cook help lists its
        commands.

        Example: %%cook --mem 4g --out model
        """
        try:
            if cell is not None:
                return self._run(line, cell)
            existing = self.session.existing_client
            try:
                return self._command(line)
            except SchedulerUnreachable:
                if existing is None:
                    raise
                self.session.reconnect()  # it may have been restarted at another address
                return self._command(line)
        except CookError as error:
            if isinstance(error, JobFailed):
                _advise(error)
            raise show_as(error, _short_lines(error)) from error.__cause__

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
        return command(self.session, parse_line(command, rest))

    # --- a cell as a job ---

    def _run(self, line: str, source: str) -> Any:
        options = parse_line(type(self).cook, line)
        out, also = _parse_names(options.out), _parse_names(options.also)
        background = options.background
        if background is not None and not _is_variable(background):
            raise UsageError(f"--background needs the name of a variable, not {background!r}")
        source = self._notebook.transform_cell(source)  # type: ignore[no-untyped-call]
        needed = cells.names_needed(source, self.session.namespace)
        required = self._require_names(also)
        names = sorted({*needed.always, *needed.perhaps, *required})
        try:
            future, file_name = self._submit(options, source, names, out)
        except Unpicklable:
            # Names that the cell binds itself are only sent if they can be.
            left_out = self._unsendable([name for name in needed.perhaps if name not in required])
            if not left_out:
                encode_function(cells.anchor(names, self.session.namespace))  # raises an error about the cell
                raise
            names = [name for name in names if name not in left_out]
            future, file_name = self._submit(options, source, names, out, left_out)
        if background is not None:
            # When the cell returns, the scheduler has the job, so that the notebook may be closed.
            wait_until_accepted(future)
            if future.done() and isinstance(rejection := future.exception(), InvalidRequest | Conflict):
                raise rejection
            started = BackgroundCell(future, future.name, self.session.apply_outcome)
            self.session.on_started(future.key, started)
            self.session.namespace[background] = started
            return started
        self.session.on_started(future.key)
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
            cpus=_value_or(options.cpus, self.cpus),
            mem_mb=self.mem_mb if options.mem is None else units.parse_memory(options.mem),
            gpus=_value_or(options.gpus, self.gpus),
            pool=_value_or(options.pool, self.pool) or None,
            priority=_value_or(options.priority, self.priority),
            retries=_value_or(options.retries, self.retries),
            group=self._group(options.group),
            constraints=_parse_pairs(options.constraint),
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
        """Return the number in the prompt of the running cell; `execution_count` may be that of the next."""
        history = self._notebook.history_manager
        return len(history.input_hist_parsed) - 1 if history is not None else 0

    def _unsendable(self, names: Sequence[str]) -> dict[str, str]:
        """Return the notebook's names whose values cannot be sent, with the reasons."""
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
            self._raise_interrupt(future, screen, short, interrupt)
        error = future.exception()
        if screen.shows_state:
            screen.end(run.last_line())
        if error is None:
            return self.session.apply_outcome(future.result())
        for bundle in getattr(error, "__cook_displays__", ()):
            screen.show(bundle)
        if isinstance(error, CookError):
            raise error
        where = f"in job {short}" + (f" on {future.host}" if future.host else "")
        raise show_as(error, short_traceback(error, file_name, where))

    def _raise_interrupt(
        self, future: CookFuture, screen: Screen, short: str, interrupt: KeyboardInterrupt
    ) -> NoReturn:
        if self.on_interrupt == "kill":
            future.kill()
            text = f"KeyboardInterrupt: {short} was killed"
            screen.end(StateLine(MARKS["killed"], short))
        else:
            text = (
                f"KeyboardInterrupt: {short} keeps running; get its result with %cook wait {future.key[:8]}"
            )
            screen.end(StateLine(MARKS[_known_state(future)], f"{short} keeps running"))
        raise show_as(interrupt, [text]) from None

    def _require_names(self, names: Sequence[str]) -> list[str]:
        missing = [name for name in names if name not in self.session.namespace]
        if missing:
            raise UsageError(f"--in {','.join(missing)}: there is no such name in the notebook")
        return list(names)

    def _group(self, word: str | None) -> Group | str | None:
        """Return the group given by the name of a variable or by a uuid."""
        group = word if word is None else self.session.namespace.get(word, word)
        if group is not None and not isinstance(group, Group | str):
            raise UsageError(f"--group {word}: expected a Group, got {type(group).__name__}")
        return group

    def _shows_progress(self) -> bool:
        return self.progress == "always" or (self.progress == "auto" and self.session.is_interactive)

    # --- settings ---

    def rows(self) -> list[tuple[str, str, str]]:
        """Return name, value and origin of each setting."""
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
            if name == "environment" and not value and (environment_names := named_environment()):
                rows.append((name, environment_names, "COOK_JUPYTER_ENVIRONMENT or the configuration file"))
                continue
            origin_text = "default" if value == self.traits()[name].default_value else "set in this notebook"
            rows.append((name, str(value) or "(none)", origin_text))
        return rows

    def change(self, changes: Sequence[tuple[str, str]]) -> None:
        """Change settings; if one is invalid, none is changed.

        Args:
            changes: name and value of each, as text.

        Raises:
            UsageError: there is no such setting, or its value is invalid.
        """
        old_values = {name: getattr(self, name) for name in self._setting_names()}
        try:
            for name, value in changes:
                self._change(name, value)
        except UsageError:
            for name, value in old_values.items():
                setattr(self, name, value)
            raise

    def _change(self, name: str, value: str) -> None:
        names = self._setting_names()
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(names)}"
            raise UsageError(f"there is no setting {name!r}; {hint}")
        try:
            new_value = (
                units.parse_memory(value) if name == "mem_mb" else self.traits()[name].from_string(value)
            )
            setattr(self, name, new_value)
        except (TraitError, ValueError, InvalidRequest) as error:
            message = str(error)
            raise UsageError(message if message.startswith(f"{name} ") else f"{name}: {message}") from error

    def _setting_names(self) -> list[str]:
        return list(self.traits(config=True))


def _advise(error: JobFailed) -> None:
    """Replace advice for Python code in an error by advice in terms of options and commands."""
    text = without_advice(error)
    if text != str(error):
        if type(error) in _RESOURCE_OPTIONS:
            error.add_note(f"Request more: %%cook {_RESOURCE_OPTIONS[type(error)]}")
        elif error.job_id:
            error.add_note(f"Its output: %cook logs {error.job_id[:8]} --stderr")
        error.args = (text,)


def _short_lines(error: CookError) -> list[str]:
    lines = [f"\x1b[31m{type(error).__name__}\x1b[0m: {error}"]
    return lines + [str(note) for note in getattr(error, "__notes__", ())]


def _known_state(future: CookFuture) -> str:
    return future.status if future.status in MARKS else "waiting"


def _parse_names(words: Sequence[str]) -> list[str]:
    names = [name.strip() for part in words for name in part.split(",") if name.strip()]
    invalid = [name for name in names if not _is_variable(name)]
    if invalid:
        raise UsageError(f"not the name of a variable: {', '.join(invalid)}")
    return list(dict.fromkeys(names))


def _is_variable(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _parse_pairs(words: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in words:
        name, separator, value = text.partition("=")
        if not (separator and name and value):
            raise UsageError(f"--constraint needs NAME=VALUE, such as HOSTNAME=a17, not {text!r}")
        pairs[name] = value
    return pairs


def _value_or(value: Any, default: Any) -> Any:
    return default if value is None else value
