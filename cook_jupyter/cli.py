"""The command line `cook-jupyter`: run, inspect, stop and simulate a scheduler, and replay its decisions.

Lives here: the commands; the start of the HTTP server of a scheduler; and the runtime file, by which clients
find it. Not here: the scheduler itself (`service.process.lifespan`), the search for a running one
(`client.connect`).
"""

import asyncio
import gc
import json
import logging
import os
import re
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cook_jupyter.errors import (
    ClusterUnusable,
    Conflict,
    CookError,
    InvalidRequest,
    OutOfStep,
    SchedulerError,
    SchedulerUnreachable,
)
from cook_jupyter.model.counts import counted
from cook_jupyter.model.printable import printable

if TYPE_CHECKING:
    from cook_jupyter.api.auth import TokenAuthenticator
    from cook_jupyter.service.scheduler import Scheduler
    from cook_jupyter.service.settings.home import Home
    from cook_jupyter.service.settings.schema import Settings

log = logging.getLogger(__name__)

END_TIMEOUT_S = 20.0
DUMP_TIMEOUT_S = 600.0
RUNTIME_FILE_CHECK_S = 1.0
MAX_REBUILDS = 3  # within REBUILD_WINDOW_S; after one more the process exits
REBUILD_WINDOW_S = 60.0
SETTINGS_FILE = "settings.toml"  # in the home directory; notebooks start schedulers with it, too

_EXIT_STATUS: Final = {InvalidRequest: 2, ClusterUnusable: 4}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cook_jupyter")
def cook_jupyter() -> None:
    """Fair-share research compute inside Jupyter."""


def main() -> None:
    """Run the command line; print errors of cook_jupyter as one line.

    The exit status is 2 for an invalid request or option, 4 if a cluster refuses the scheduler
    for good, so that a supervisor of services does not start it again, and 1 for other errors.
    """
    try:
        cook_jupyter()
    except CookError as error:
        _print(f"cook-jupyter: {error}", err=True)
        sys.exit(next((status for kind, status in _EXIT_STATUS.items() if isinstance(error, kind)), 1))


def _print(text: str, *, err: bool = False) -> None:
    """Print text with all control characters escaped, as it may have names and messages of other users."""
    click.echo(printable(text, lines=True), err=err)


SETTINGS_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--home", type=click.Path(path_type=Path), help="Directory for all state [COOK_JUPYTER_HOME]."
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Settings file, TOML [settings.toml in the home directory, if it exists].",
    ),
    click.option("--host", help="Local address to listen on [127.0.0.1]."),
    click.option("--port", type=int, help="Port to listen on [a free one]."),
    click.option("--socket", help="Listen on a Unix socket instead."),
    click.option("--cpus", type=float, help="Number of cpus to offer [all]."),
    click.option("--mem-mb", type=float, help="Memory to offer in MiB [all]."),
    click.option(
        "--synchronous", type=click.Choice(["NORMAL", "FULL"]), help="Durability of the store [NORMAL]."
    ),
)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that determine the settings of a scheduler to a command."""
    for option in reversed(SETTINGS_OPTIONS):
        command = option(command)
    return command


def _find_settings(home: Path | None, config: Path | None) -> "tuple[Home, Path | None]":
    """Return the home directory of a scheduler and its settings file, if it has one."""
    from cook_jupyter.service.settings.home import Home

    home_dir = Home(root=home.absolute()) if home else Home.default()
    default = home_dir.root / SETTINGS_FILE
    return home_dir, config or (default if default.exists() else None)


@cook_jupyter.command()
@settings_options
@click.option("--embedded", is_flag=True, help="Print nothing (set when a notebook starts the scheduler).")
def serve(home: Path | None, config: Path | None, embedded: bool, **options: Any) -> None:
    """Run a scheduler in the foreground."""
    from cook_jupyter.api.auth import TokenAuthenticator, require_safe_address
    from cook_jupyter.service.process.preflight import hold_home_lock, prestart_agent
    from cook_jupyter.service.settings.loading import load_settings

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    home_dir, settings_path = _find_settings(home, config)
    settings = load_settings(settings_path, **options)
    token = secrets.token_urlsafe(32)
    authenticator = TokenAuthenticator(token, admins=settings.server.admins)
    require_safe_address(None if settings.server.socket else settings.server.host, authenticator)
    home_dir.make()
    _require_no_other(home_dir)
    with hold_home_lock(home_dir), prestart_agent(settings, home_dir):
        rebuild_when_out_of_step(
            lambda: asyncio.run(
                _serve(
                    settings,
                    home_dir,
                    authenticator,
                    token,
                    quiet=embedded,
                    config=str(config.absolute()) if config else "",
                )
            )
        )


@cook_jupyter.command()
@settings_options
@click.option("--show-origin", is_flag=True, help="Also show where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead, always with origins.")
def config(home: Path | None, config: Path | None, show_origin: bool, as_json: bool, **options: Any) -> None:
    """Show all settings of `serve`, and where each comes from."""
    from cook_jupyter.service.settings.home import HOME_VARIABLE
    from cook_jupyter.service.settings.loading import Origin, format_value, load_with_sources, plain_value

    home_dir, settings_path = _find_settings(home, config)
    source = "command line: --home" if home else f"environment: {HOME_VARIABLE}"
    rows = [
        Origin("home", str(home_dir.root), source if home or os.environ.get(HOME_VARIABLE) else "default"),
        *load_with_sources(settings_path, **options).origins(),
    ]
    if as_json:
        values = [{"name": row.name, "value": plain_value(row.value), "origin": row.source} for row in rows]
        _print(json.dumps(values, indent=2))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        line = f"{row.name:<{width}}  {format_value(row.value)}"
        _print(f"{line:<{width + 34}}  {row.source}" if show_origin else line)


class PrintableFormatter(logging.Formatter):
    """Formats a record as one line, followed by its traceback, with all control characters escaped.

    So no text in a record can send commands to the terminal of the reader, or forge another line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        """Format the line of a record."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Format the line and the traceback of a record."""
        return printable(super().format(record), lines=True)


def rebuild_when_out_of_step(
    serve_once: Callable[[], None], *, now_s: Callable[[], float] = time.monotonic
) -> None:
    """Run a scheduler; start a new one from the same store each time an in-memory view misses a commit.

    Args:
        serve_once: function that runs one scheduler until it ends.
        now_s: monotonic clock, in seconds.

    Raises:
        OutOfStep: views missed commits more than MAX_REBUILDS times within REBUILD_WINDOW_S.
    """
    rebuilds: deque[float] = deque(maxlen=MAX_REBUILDS)
    while True:
        try:
            serve_once()
        except OutOfStep as error:
            if len(rebuilds) == MAX_REBUILDS and now_s() - rebuilds[0] <= REBUILD_WINDOW_S:
                raise
            rebuilds.append(now_s())
            log.critical("%s; rebuilding the scheduler from its store", error)
        else:
            return


def _require_no_other(home: "Home") -> None:
    """Refuse to serve a home directory that has a running scheduler, even if its lock file was removed.

    Raises:
        Conflict: another scheduler is running there.
    """
    from cook_jupyter.client.runtime import RuntimeFile, read_runtime

    runtime = read_runtime(home.root)
    if isinstance(runtime, RuntimeFile):
        raise Conflict(
            f"a scheduler is already running in {home.root} (process {runtime.pid}): `cook-jupyter status`"
            " shows it, `cook-jupyter down` stops it"
        )


async def _serve(
    settings: "Settings",
    home: "Home",
    authenticator: "TokenAuthenticator",
    token: str,
    *,
    quiet: bool,
    config: str,
) -> None:
    from cook_jupyter.api.connections import raise_descriptor_limit
    from cook_jupyter.api.routes import listen
    from cook_jupyter.service.process.embedded import run_embedded_scheduler

    raise_descriptor_limit()

    async with run_embedded_scheduler(settings, home) as scheduler:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, scheduler.request_shutdown)
        server = listen(scheduler, authenticator, settings, owner_socket=home.owner_socket())
        runtime_file = RuntimeFileWriter(
            home.runtime_file,
            url=server.url,
            token=token,
            store=scheduler.store_id,
            socket=str(server.socket_path or ""),
            config=config,
        )
        runtime_file.write()
        if not quiet:
            _print(f"cook_jupyter is listening at {server.url}; press Ctrl-C to stop it")
        _tune_gc()
        log_file = home.scheduler_log if _is_stderr(home.scheduler_log) else None
        keeper = asyncio.create_task(_keep(runtime_file, scheduler, log_file))
        try:
            await scheduler.shutdown.wait()
            if scheduler.failure is None:  # else keep it, so that clients waiting for results start another
                runtime_file.remove()
        finally:
            keeper.cancel()
            await server.close()
        if scheduler.failure is not None:
            raise SchedulerError(scheduler.failure)


async def _keep(runtime_file: "RuntimeFileWriter", scheduler: "Scheduler", log_file: Path | None) -> None:
    """Maintain the files of this process until cancelled.

    Args:
        runtime_file: the runtime file, which is rewritten if it was removed or changed.
        scheduler: the scheduler of this process.
        log_file: the log, whose size is bounded; None if stderr is not the log of the scheduler.
    """
    from cook_jupyter.worker.log_file import bound_log

    while True:
        await asyncio.sleep(RUNTIME_FILE_CHECK_S)
        if log_file is not None:
            await asyncio.to_thread(bound_log, str(log_file))
        try:
            if scheduler.store.broken() is None and not runtime_file.is_intact():
                log.warning("The runtime file %s was removed or changed; rewriting it", runtime_file)
                runtime_file.write()
        except OSError as error:
            log.warning("The runtime file %s cannot be written: %s", runtime_file, error)


def _is_stderr(path: Path) -> bool:
    """Return whether stderr of this process is a file."""
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:
        return False


def _tune_gc() -> None:
    """Tune garbage collection for millions of long-lived objects.

    The values of a scheduler have no reference cycles, and traversing a million of them again and again would
    cost more than all scheduling decisions.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class RuntimeFileWriter:
    """The file by which clients of this user find the scheduler of this process; its mode is 0600.

    Args:
        path: path of the file in the home directory.
        url: URL of the scheduler.
        token: secret that clients have to send.
        store: id of the store.
        socket: path of the additional Unix socket; empty if there is none.
        config: path of the settings file that the command line names; empty if it names none.
    """

    def __init__(
        self, path: Path, *, url: str, token: str, store: str, socket: str = "", config: str = ""
    ) -> None:
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
            "config": config,
        }
        self._text = json.dumps(fields).encode()

    def __str__(self) -> str:
        return str(self._path)

    def write(self) -> None:
        """Write the file atomically."""
        draft = self._path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._text)
        draft.replace(self._path)

    def is_intact(self) -> bool:
        """Return whether the file is unchanged and only accessible to its owner."""
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
    """Start your scheduler in the background, unless it is running."""
    from cook_jupyter.client.connect import connect

    client = connect()
    _print(f"cook_jupyter is up at {client.url}")


@cook_jupyter.command()
def status() -> None:
    """Show your scheduler, and the jobs of each user."""
    from cook_jupyter.client.connect import connect

    try:
        client = connect(start=False)
    except SchedulerUnreachable as error:
        _print(f"no scheduler: {error}" if error.pid is None else f"no answer: {error}")
        sys.exit(3)
    info, summary = client.info_v1(), client.summary()
    capacity, used = summary.capacity, summary.used
    _print(f"cook_jupyter {info.version} at {client.url}, pid {info.pid}, home {info.home}")
    _print(
        f"{used.cpus:g} of {capacity.cpus:g} cpus and {used.mem_mb:.0f} of {capacity.mem_mb:.0f} MiB"
        f" in use; {summary.running} jobs run, {summary.waiting} wait"
    )
    for row in summary.users:
        _print(
            f"  {printable(row.user):<16} {row.running:>7} run  {row.waiting:>9} wait"
            f"  {row.cpus:>8g} cpus" + ("" if row.dru is None else f"  DRU {row.dru:.2f}")
        )


@cook_jupyter.command()
@click.option(
    "--stop-work", is_flag=True, help="Also kill the jobs that run on this machine. Those on Mesos go on."
)
def down(stop_work: bool) -> None:
    """Stop your scheduler.

    Its jobs are kept, and those that run go on.
    """
    from cook_jupyter.client.connect import connect
    from cook_jupyter.client.runtime import is_alive

    try:
        client = connect(start=False)
    except SchedulerUnreachable as error:
        if error.pid is not None:
            raise
        _print("no scheduler runs")
        return
    pid = client.info_v1().pid
    client.shutdown(stop_agent=stop_work)
    deadline = time.monotonic() + END_TIMEOUT_S
    while is_alive(pid, None):
        if time.monotonic() > deadline:
            raise SchedulerUnreachable(
                f"the scheduler (pid {pid}) has not stopped within {END_TIMEOUT_S:.0f} s; kill it if it hangs"
            )
        time.sleep(0.02)
    _print("cook_jupyter is down")


@cook_jupyter.group()
def debug() -> None:
    """Write what decisions read to a file, and repeat them."""


@debug.command()
@click.argument("pool", default="")
@click.option(
    "--job", "jobs", multiple=True, help="A job to explain: why does it wait? Repeat it for several."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write [cook-jupyter-POOL.json in the current directory].",
)
def dump(pool: str, jobs: tuple[str, ...], out: Path | None) -> None:
    """Write everything that decisions about a pool read at this moment to a file.

    The file contains names of users, hosts and jobs, but no commands, environments or results.
    """
    from cook_jupyter.client.connect import connect

    text = connect(start=False).with_timeout(DUMP_TIMEOUT_S).dump(pool or None, jobs)
    path = out or Path(f"cook-jupyter-{re.sub(r'[^A-Za-z0-9_.-]', '_', pool) or 'default'}.json")
    try:
        path.write_bytes(text)
    except OSError as error:
        raise click.ClickException(f"the dump cannot be written: {error}") from error
    _print(f"{path}: {len(text):,} bytes")


@debug.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the decisions as JSON, for comparison.")
def replay(file: Path, as_json: bool) -> None:
    """Repeat the decisions about a dump: which jobs start, which are preempted, and why others wait."""
    from cook_jupyter.service.requests import dumps

    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the dump cannot be read: {error}") from error
    dump = dumps.read_dump(text)
    decisions = dumps.replay_dump(dump)
    if as_json:
        _print(decisions.encode().decode())
        return
    for line in (str(dump), *decisions.lines()):
        _print(line)


@cook_jupyter.group()
def mesos() -> None:
    """Package the executor for Mesos; replace a framework."""


@mesos.command("reset-framework")
@click.argument("cluster", default="mesos")
@click.option("--home", type=click.Path(path_type=Path), help="Directory for all state [COOK_JUPYTER_HOME].")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Settings file [settings.toml of the home directory]."
)
@click.confirmation_option(
    prompt="Its running jobs will run again from the start, with a new framework. If Mesos still has the old"
    " one, tear that down first, or its tasks run on beside the new ones. Continue?"
)
def reset_framework(cluster: str, home: Path | None, config: Path | None) -> None:
    """Let a cluster register a new framework, after Mesos has removed the old one.

    The scheduler must be stopped. Jobs that were running run again, at no cost of a retry. CLUSTER is the
    name of the cluster in the settings [mesos].
    """
    from cook_jupyter.service.process import framework_reset
    from cook_jupyter.service.process.preflight import hold_home_lock
    from cook_jupyter.service.settings.loading import load_settings

    home_dir, settings_path = _find_settings(home, config)
    settings = load_settings(settings_path)
    _require_no_other(home_dir)
    with hold_home_lock(home_dir):
        reset = asyncio.run(framework_reset.reset_framework(settings, home_dir, cluster))
    _print(
        f"{counted(reset.instances, 'open instance')} ended; the cluster {cluster!r} has forgotten"
        f" {f'the framework {reset.framework_id}' if reset.framework_id else 'no framework, as it had none'}."
        " The next scheduler registers a new one."
    )


@mesos.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write [cook_jupyter-VERSION.pyz in the current directory].",
)
def package(output: Path | None) -> None:
    """Write the executor as a single file, which Mesos copies to the hosts (setting `executor_package`).

    Any Python from 3.11 on runs it; it contains cloudpickle. The same version makes the same bytes each time.
    """
    from importlib.metadata import version

    from cook_jupyter.worker.mesos.package import write_package

    path = output or Path(f"cook_jupyter-{version('cook_jupyter')}.pyz")
    try:
        written = write_package(str(path))
    except OSError as error:
        raise click.ClickException(f"the package cannot be written: {error}") from error
    _print(f"{path}: {written.size:,} bytes, sha256 {written.digest}")


@cook_jupyter.command()
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Trace of the jobs to replay, in Cook's JSON format."
)
@click.option("--hosts", type=click.Path(path_type=Path), help="Hosts to run them on, in Cook's JSON format.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration in the EDN format of Cook's simulator."
)
@click.option(
    "--scenario", help="Generate a workload instead of reading a trace: office, one-hog, bursts, steady ..."
)
@click.option("--jobs", type=int, default=10_000, show_default=True, help="Number of jobs of the scenario.")
@click.option("--users", type=int, default=20, show_default=True, help="Number of users of the scenario.")
@click.option(
    "--host-count", type=int, default=50, show_default=True, help="Number of hosts of the scenario."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the scenario.")
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Write the generated workload to this directory."
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=("fair",),
    show_default=True,
    help="fair (Cook), fair-better, fair-patient, quota, quota:FACTOR or fifo; repeat it to compare several.",
)
@click.option(
    "--cycle-step-ms", type=click.IntRange(min=1), help="Simulated time between cycles [configured]."
)
@click.option("--until-done", is_flag=True, help="Go on after the last submission until all jobs have ended.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write one row per instance to this file, in Cook's CSV format.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Write a report that compares the policies to this directory.",
)
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
    """Run a trace through the real scheduler on simulated hosts, faster than real time."""
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
