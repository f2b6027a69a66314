"""`cook-jupyter`: run a scheduler, see it, end it; simulate one.

Lives here: the commands, and the two things only the roof can do: put HTTP in front of the
scheduler, and tell clients where it is (the runtime file). Not here: what a scheduler is
(`service.start`), how clients find it (`client.connect`).
"""

import asyncio
import gc
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cook_jupyter.errors import (
    Conflict,
    CookError,
    InvalidRequest,
    OutOfStep,
    SchedulerError,
    SchedulerUnreachable,
)
from cook_jupyter.model.printable import printable

if TYPE_CHECKING:
    from cook_jupyter.api.auth import TokenAuthenticator
    from cook_jupyter.service.config import Home, Settings
    from cook_jupyter.service.scheduler import Scheduler

log = logging.getLogger(__name__)

END_TIMEOUT_S = 20.0
RUNTIME_FILE_CHECK_S = 1.0
MAX_REBUILDS = 3  # within REBUILD_WINDOW_S; one more ends the process
REBUILD_WINDOW_S = 60.0
SETTINGS_FILE = "settings.toml"  # in the home: also of the schedulers that notebooks start


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cook_jupyter")
def cook_jupyter() -> None:
    """Fair-share research compute inside Jupyter."""


def main() -> None:
    """Run the command line; print an error of cook_jupyter in one line.

    The exit status is 2 if the request is at fault, as for a wrong option, and 1 otherwise.
    """
    try:
        cook_jupyter()
    except CookError as error:
        _print(f"cook-jupyter: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidRequest) else 1)


def _print(text: str, *, err: bool = False) -> None:
    """Print text, which may hold names and messages of others, so that the terminal obeys none of them."""
    click.echo(printable(text, lines=True), err=err)


@cook_jupyter.command()
@click.option("--home", type=click.Path(path_type=Path), help="Directory of all state [COOK_JUPYTER_HOME].")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings file (TOML) [settings.toml in the home, if it is there].",
)
@click.option("--host", help="Address to listen on [127.0.0.1]; others need an authenticator.")
@click.option("--port", type=int, help="Port to listen on [a free one].")
@click.option("--socket", help="Listen on a Unix socket instead.")
@click.option("--cpus", type=float, help="Cpus to offer [all of this machine].")
@click.option("--mem-mb", type=float, help="Memory to offer, MiB [what the machine has].")
@click.option("--synchronous", type=click.Choice(["NORMAL", "FULL"]), help="SQLite's durability.")
@click.option("--embedded", is_flag=True, help="Started by a notebook: say nothing on the terminal.")
def serve(home: Path | None, config: Path | None, embedded: bool, **options: Any) -> None:
    """Run a scheduler in the foreground until it is told to end."""
    from cook_jupyter.api.auth import TokenAuthenticator, require_safe_address
    from cook_jupyter.service.config import Home, load_settings
    from cook_jupyter.service.early import sole_owner, start_agent

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    place = Home(root=home.absolute()) if home else Home.default()
    kept = place.root / SETTINGS_FILE
    settings = load_settings(config or (kept if kept.exists() else None), **options)
    token = secrets.token_urlsafe(32)
    authenticator = TokenAuthenticator(token, admins=settings.admins)
    require_safe_address(None if settings.socket else settings.host, authenticator)
    place.make()
    _require_no_other(place)
    with sole_owner(place), start_agent(settings, place):
        rebuild_when_out_of_step(
            lambda: asyncio.run(_serve(settings, place, authenticator, token, quiet=embedded))
        )


class PrintableFormatter(logging.Formatter):
    """Formats a record as one line, with the traceback below it.

    No text in it commands the terminal on which the log is read, or forges a line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        """Return the line."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and the traceback."""
        return printable(super().format(record), lines=True)


def rebuild_when_out_of_step(
    serve_once: Callable[[], None], *, now_s: Callable[[], float] = time.monotonic
) -> None:
    """Run a scheduler, and another one from the same store each time its memory missed a commit.

    Args:
        serve_once: runs one scheduler to its end.
        now_s: a monotonic clock, in seconds.

    Raises:
        OutOfStep: it happened more than MAX_REBUILDS times within REBUILD_WINDOW_S.
    """
    rebuilds: deque[float] = deque(maxlen=MAX_REBUILDS)
    while True:
        try:
            serve_once()
        except OutOfStep as error:
            if len(rebuilds) == MAX_REBUILDS and now_s() - rebuilds[0] <= REBUILD_WINDOW_S:
                raise
            rebuilds.append(now_s())
            log.critical("%s; the scheduler is built again from its store", error)
        else:
            return


def _require_no_other(home: "Home") -> None:
    """Refuse to serve a home whose scheduler lives, even if somebody has removed its lock.

    Raises:
        Conflict: another scheduler lives there.
    """
    from cook_jupyter.client.runtime import Runtime, read_runtime

    runtime = read_runtime(home.root)
    if isinstance(runtime, Runtime):
        raise Conflict(
            f"a scheduler runs already in {home.root} (process {runtime.pid}): `cook-jupyter status` shows"
            " it, `cook-jupyter down` ends it"
        )


async def _serve(
    settings: "Settings", home: "Home", authenticator: "TokenAuthenticator", token: str, *, quiet: bool
) -> None:
    from cook_jupyter.api.connections import raise_descriptor_limit
    from cook_jupyter.api.routes import listen
    from cook_jupyter.service.embedded import embedded

    raise_descriptor_limit()

    async with embedded(settings, home) as scheduler:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, scheduler.request_shutdown)
        server = listen(scheduler, authenticator, settings, owner_socket=home.owner_socket())
        runtime_file = RuntimeFile(
            home.runtime_file,
            url=server.url,
            token=token,
            store=scheduler.store_id,
            socket=str(server.socket_path or ""),
        )
        runtime_file.write()
        if not quiet:
            _print(f"cook_jupyter serves at {server.url}; Ctrl-C ends it")
        _calm_the_collector()
        log_file = home.scheduler_log if _is_stderr(home.scheduler_log) else None
        keeper = asyncio.create_task(_keep(runtime_file, scheduler, log_file))
        try:
            await scheduler.shutdown.wait()
            if scheduler.failure is None:  # else the file is left: who waits for a result shall start another
                runtime_file.remove()
        finally:
            keeper.cancel()
            await server.close()
        if scheduler.failure is not None:
            raise SchedulerError(scheduler.failure)


async def _keep(runtime_file: "RuntimeFile", scheduler: "Scheduler", log_file: Path | None) -> None:
    """Look after the files of this process until cancelled.

    Args:
        runtime_file: written again whenever it is missing or is not this scheduler's.
        scheduler: the scheduler.
        log_file: the log, kept small; None if stderr is somebody else's.
    """
    from cook_jupyter.worker.log_file import bound_log

    while True:
        await asyncio.sleep(RUNTIME_FILE_CHECK_S)
        if log_file is not None:
            await asyncio.to_thread(bound_log, str(log_file))
        try:
            if scheduler.store.broken() is None and not runtime_file.is_intact():
                log.warning("The runtime file %s was removed or changed: it is written again", runtime_file)
                runtime_file.write()
        except OSError as error:
            log.warning("The runtime file %s cannot be written: %s", runtime_file, error)


def _is_stderr(path: Path) -> bool:
    """Return whether stderr of this process is this file."""
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:
        return False


def _calm_the_collector() -> None:
    """Let the garbage collector leave alone what is there for good.

    A scheduler's values are trees without cycles, and a million of them looked through again and
    again would cost more than all decisions.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class RuntimeFile:
    """Where clients of this user find the scheduler of this process; mode 0600.

    Args:
        path: its place in the home.
        url: where the scheduler listens.
        token: what its clients have to show.
        store: the id of its store.
        socket: the Unix socket on which it listens besides; empty if there is none.
    """

    def __init__(self, path: Path, *, url: str, token: str, store: str, socket: str = "") -> None:
        from importlib.metadata import version

        from cook_jupyter.client.runtime import own_identity

        self._path = path
        fields = {
            "url": url,
            "token": token,
            **own_identity(),
            "version": version("cook_jupyter"),
            "home": str(path.parent),
            "store": store,
            "socket": socket,
        }
        self._text = json.dumps(fields).encode()

    def __str__(self) -> str:
        return str(self._path)

    def write(self) -> None:
        """Write the file, whole or not at all."""
        draft = self._path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._text)
        draft.replace(self._path)

    def is_intact(self) -> bool:
        """Return whether the file is there, for its owner alone, with what this process wrote."""
        try:
            status = self._path.stat()
            return not status.st_mode & 0o077 and self._path.read_bytes() == self._text
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove the file, unless another scheduler has replaced it."""
        if self.is_intact():
            self._path.unlink(missing_ok=True)


@cook_jupyter.command()
def up() -> None:
    """Start this user's scheduler in the background, unless it runs."""
    from cook_jupyter.client.connect import connect

    client = connect()
    _print(f"cook_jupyter is up at {client.url}")


@cook_jupyter.command()
def status() -> None:
    """Show the scheduler, who waits and who runs how much."""
    from cook_jupyter.client.connect import connect

    try:
        client = connect(start=False)
    except SchedulerUnreachable as error:
        _print(f"no scheduler: {error}" if error.pid is None else f"no answer: {error}")
        sys.exit(3)
    info, summary = client.info_v1(), client.summary()
    capacity, used = summary["capacity"], summary["used"]
    _print(f"cook_jupyter {info['version']} at {client.url}, pid {info['pid']}, home {info['home']}")
    _print(
        f"{used['cpus']:g} of {capacity['cpus']:g} cpus and {used['mem']:.0f} of {capacity['mem']:.0f} MiB"
        f" in use; {summary['running']} jobs run, {summary['waiting']} wait"
    )
    for row in summary["users"]:
        _print(
            f"  {printable(row['user']):<16} {row['running']:>7} run  {row['waiting']:>9} wait"
            f"  {row['cpus']:>8g} cpus  DRU {row['dru']:.2f}"
        )


@cook_jupyter.command()
@click.option("--stop-work", is_flag=True, help="Kill what runs, too; else it goes on to its end.")
def down(stop_work: bool) -> None:
    """End this user's scheduler; accepted jobs stay accepted."""
    from cook_jupyter.client.connect import connect
    from cook_jupyter.client.runtime import is_alive

    try:
        client = connect(start=False)
    except SchedulerUnreachable as error:
        if error.pid is not None:
            raise
        _print("no scheduler runs")
        return
    pid = int(client.info_v1()["pid"])
    client.shutdown(stop_agent=stop_work)
    deadline = time.monotonic() + END_TIMEOUT_S
    while is_alive(pid, None):
        if time.monotonic() > deadline:
            raise SchedulerUnreachable(
                f"the scheduler (pid {pid}) was asked to end {END_TIMEOUT_S:.0f} s ago and still lives"
            )
        time.sleep(0.02)
    _print("cook_jupyter is down")


@cook_jupyter.command()
@click.option("--trace", type=click.Path(path_type=Path), help="Jobs to replay: Cook's trace, JSON.")
@click.option("--hosts", type=click.Path(path_type=Path), help="Hosts to replay them on: Cook's, JSON.")
@click.option("--config", type=click.Path(path_type=Path), help="Cook's simulator configuration, EDN.")
@click.option(
    "--scenario", help="Generate a workload instead of reading a trace: office, one-hog, bursts, steady ..."
)
@click.option("--jobs", type=int, default=10_000, show_default=True, help="Jobs of the scenario.")
@click.option("--users", type=int, default=20, show_default=True, help="Users of the scenario.")
@click.option("--host-count", type=int, default=50, show_default=True, help="Hosts of the scenario.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the scenario.")
@click.option("--keep", type=click.Path(path_type=Path), help="Write the scenario's files to this directory.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=("fair",),
    show_default=True,
    help="fair (Cook), fair-better, fair-patient, quota, quota:FACTOR or fifo; several are compared.",
)
@click.option("--cycle-step-ms", type=click.IntRange(min=1), help="From one cycle to the next [configured].")
@click.option("--until-done", is_flag=True, help="Go on after the last submission until all has ended.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the rows go, a CSV as Cook writes it.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a report to this directory.")
@click.option("--summary", is_flag=True, help="Print the figures of the report.")
def simulate(
    trace: Path | None,
    hosts: Path | None,
    config: Path | None,
    scenario: str | None,
    policies: tuple[str, ...],
    cycle_step_ms: int | None,
    **options: Any,
) -> None:
    """Run a trace through the real scheduler, on simulated hosts and faster than real time."""
    from dataclasses import replace

    from cook_jupyter.simulation import command

    def report(line: str) -> None:
        _print(line, err=True)

    sizes = {name: options[name] for name in ("jobs", "users", "seed")}
    workload = None
    if scenario is not None:
        workload = command.WorkloadSpec(scenario=scenario, hosts=options["host_count"], **sizes)
    elif options["keep"]:
        raise InvalidRequest("--keep writes a generated workload; give --scenario with it")
    chosen = command.find_policies(policies)
    work = command.load_input(trace, hosts, config, workload, report)
    if cycle_step_ms is not None:
        work = replace(work, config=replace(work.config, cycle_step_ms=cycle_step_ms))
    if not (options["out"] or options["report"] or options["summary"]):
        raise click.UsageError("specify at least one of --out, --report or --summary")
    targets = command.Targets(out=options["out"], report=options["report"], keep=options["keep"])
    targets.check(chosen, (trace, hosts, config))
    try:
        if targets.keep is not None:
            command.write_workload(work, targets.keep, with_config=config is None)
        text = command.run_policies(
            work, chosen, targets, summary=options["summary"], until_done=options["until_done"], report=report
        )
        if text:
            _print(text)
    except OSError as error:
        raise click.ClickException(f"the results cannot be written: {error}") from error
