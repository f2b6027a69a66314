"""Find the scheduler: a configured one, otherwise this user's own, which is started if necessary.

Lives here: the order of the search. The first of these that is present counts:

1. the argument of `connect`;
2. the environment: COOK_JUPYTER_URL, COOK_JUPYTER_TOKEN, COOK_JUPYTER_USER;
3. the file `cook_jupyter/config.toml` in the XDG configuration directory, table `[client]`: url, token or
   token_file, user;
4. the runtime file of this user's embedded scheduler;
5. a new embedded scheduler.

Not here: requests (`client.sync`), how the scheduler is started (`client.start`).
"""

import logging
import os
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from cook_jupyter.client.home import config_file, home_folder, is_private_file
from cook_jupyter.client.runtime import RuntimeFile, StaleRuntimeFile, is_stopped, read_runtime
from cook_jupyter.client.start import START_TIMEOUT_S, start_embedded, start_lock
from cook_jupyter.client.sync import TIMEOUT_S, JobClient
from cook_jupyter.errors import (
    CookError,
    Forbidden,
    InvalidRequest,
    NotFound,
    SchedulerError,
    SchedulerUnreachable,
    Unauthenticated,
)
from cook_jupyter.wire.users import require_user_name

logger = logging.getLogger("cook_jupyter.client")

_SETTINGS = frozenset({"environment", "url", "token", "token_file", "user"})
_ANSWER_TIMEOUT_S = 5.0  # for a living scheduler, if none would be started
_POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A configured scheduler.

    Attributes:
        origin: source of the configuration, for messages.
        socket_path: Unix socket on which it also listens, if known.
    """

    url: str | None
    token: str | None
    user: str | None
    origin: str
    socket_path: str | None = None


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    user: str | None = None,
    start: bool = True,
    timeout_s: float = START_TIMEOUT_S,
) -> JobClient:
    """Find a scheduler, or start the embedded one, and check that it answers.

    The order of the search is in the docstring of the module.

    Args:
        url: `http://HOST:PORT`, `https://...` or `unix:///PATH`; None to search.
        token: token of the user.
        user: user name to act as; on an embedded scheduler any name is allowed, to try fairness out.
        start: whether to start an embedded scheduler if none is found.
        timeout_s: time limit for finding and starting.

    Returns:
        A client that has received an answer.

    Raises:
        SchedulerUnreachable: there is none, or none could be started; the message says what to do.
        Unauthenticated: the configured scheduler rejects the token.
        InvalidRequest: the configuration is invalid; the message names the location.
    """
    target = configured_target(url, token=token, user=user)
    if target.url is not None:
        return _verified_client(target.url, target)
    return _client_from_runtime_file(target, start=start, timeout_s=timeout_s)


def configured_target(url: str | None = None, *, token: str | None = None, user: str | None = None) -> Target:
    """Return the configuration in arguments, environment and configuration file, without sending a request.

    Raises:
        InvalidRequest: the configuration file is invalid, or the user name cannot be sent in a request.
        Forbidden: others may read the token in the file.
    """
    if user is not None:
        require_user_name(user)
    if url is not None:
        return _with_runtime_token(Target(url=url, token=token, user=user, origin="the argument url"))
    user = user or os.environ.get("COOK_JUPYTER_USER") or None
    token = token or os.environ.get("COOK_JUPYTER_TOKEN") or None
    environment_url = os.environ.get("COOK_JUPYTER_URL")
    if environment_url:
        return _with_runtime_token(
            Target(url=environment_url, token=token, user=user, origin="COOK_JUPYTER_URL")
        )
    path = config_file()
    settings = {} if path is None else _settings(path)
    return _with_runtime_token(
        Target(
            url=settings.get("url"),
            token=token or settings.get("token"),
            user=user or settings.get("user"),
            origin=str(path),
        )
    )


def named_environment() -> str:
    """Return the names of variables of this process that jobs see by default, separated by commas.

    Raises:
        InvalidRequest: the configuration file is invalid.
        Forbidden: others may read the token in the file.
    """
    names = os.environ.get("COOK_JUPYTER_ENVIRONMENT")
    if names is not None:
        return names
    path = config_file()
    return "" if path is None else _settings(path).get("environment", "")


def _with_runtime_token(target: Target) -> Target:
    """Add the token from the runtime file if the URL is that of this user's own embedded scheduler."""
    if target.token is None and target.url is not None:
        runtime = read_runtime(home_folder())
        if isinstance(runtime, RuntimeFile) and runtime.url.rstrip("/") == target.url.rstrip("/"):
            return replace(target, token=runtime.token, socket_path=runtime.socket or None)
    return target


def _settings(path: Path) -> dict[str, str]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    try:
        table = tomllib.loads(text).get("client", {})
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path} is not TOML: {error}") from error
    if not isinstance(table, dict):
        raise InvalidRequest(f"{path}: client must be a table, [client]")
    invalid = sorted(
        key for key, value in table.items() if key not in _SETTINGS or not isinstance(value, str)
    )
    if invalid:
        raise InvalidRequest(
            f"{path}: in [client], {', '.join(invalid)} is not a setting or not a string; "
            f"the settings are {', '.join(sorted(_SETTINGS))}"
        )
    token_path = path
    if "token_file" in table:
        token_path = path.parent / Path(table.pop("token_file")).expanduser()
        try:
            table["token"] = token_path.read_text("utf-8").strip()
        except OSError as error:
            raise InvalidRequest(f"{path}: token_file cannot be read: {error}") from error
    if "token" in table and not is_private_file(token_path):
        raise Forbidden(
            f"{token_path} contains a token and must be readable by you alone: chmod 600 {token_path}"
        )
    return table


def _verified_client(url: str, target: Target) -> JobClient:
    """Return a client of a configured scheduler, once it has answered."""
    client = JobClient(url, token=target.token, user=target.user, socket_path=target.socket_path)
    try:
        client.info_v1()
    except NotFound:
        pass  # an original Cook, which answers but has no /v1
    except SchedulerUnreachable as error:
        raise SchedulerUnreachable(f"{error} (the address comes from {target.origin})") from error
    return client


def _client_from_runtime_file(target: Target, *, start: bool, timeout_s: float) -> JobClient:
    """Return a client of this user's embedded scheduler, which is started if it is not running.

    Raises:
        SchedulerUnreachable: there is none, none could be started, or the running one does not answer.
    """
    home = home_folder()
    deadline = time.monotonic() + timeout_s
    while True:
        runtime = read_runtime(home)
        if isinstance(runtime, RuntimeFile):
            answer_timeout_s = deadline - time.monotonic() if start else min(timeout_s, _ANSWER_TIMEOUT_S)
            client = _await_answer(home, runtime, target, answer_timeout_s)
            if client is not None:
                return client
            continue
        why = runtime.why if isinstance(runtime, StaleRuntimeFile) else "there is no runtime file"
        if not start:
            raise SchedulerUnreachable(
                f"no scheduler is running ({why}). `cook-jupyter up` starts one; COOK_JUPYTER_URL specifies"
                " another"
            )
        if time.monotonic() > deadline:
            raise SchedulerUnreachable(
                f"schedulers were started in {home}, but each ended before it answered: {why}"
            )
        with start_lock(home, timeout_s):
            if isinstance(read_runtime(home), RuntimeFile):
                continue  # another process was faster
            if isinstance(runtime, StaleRuntimeFile):
                logger.warning("The runtime file in %s is stale: %s. Starting another scheduler.", home, why)
            start_embedded(home, max(1.0, deadline - time.monotonic()))


def _await_answer(home: Path, runtime: RuntimeFile, target: Target, timeout_s: float) -> JobClient | None:
    """Return a client of the running scheduler once it answers; None if its process has ended meanwhile.

    Raises:
        SchedulerUnreachable: it is running but does not answer; `pid` is its process.
    """
    started_at = time.monotonic()
    while True:
        remaining_s = max(_POLL_INTERVAL_S, started_at + timeout_s - time.monotonic())
        client = JobClient(
            runtime.url,
            token=runtime.token,
            user=target.user,
            timeout_s=min(TIMEOUT_S, remaining_s),
            socket_path=runtime.socket or None,
        )
        try:
            client.info_v1()
            client.timeout_s = TIMEOUT_S
            return client
        except (Unauthenticated, SchedulerUnreachable, SchedulerError, NotFound) as error:
            client.close()
            if time.monotonic() - started_at > timeout_s:
                raise _unresponsive(home, runtime, error, time.monotonic() - started_at) from error
        time.sleep(_POLL_INTERVAL_S)
        new_runtime = read_runtime(home)
        if not isinstance(new_runtime, RuntimeFile):
            return None
        runtime = new_runtime


def _unresponsive(
    home: Path, runtime: RuntimeFile, error: CookError, silent_s: float
) -> SchedulerUnreachable:
    """Return the error about a scheduler that is running but does not answer."""
    pid = runtime.pid
    if is_stopped(pid):
        advice = f"The process is suspended: `kill -CONT {pid}` resumes it"
    elif isinstance(error, Unauthenticated):
        advice = (
            f"The server at {runtime.url} rejected the token of the runtime file; it may be another program"
        )
    else:
        advice = f"It may be overloaded, and answer later; see {home / 'log' / 'scheduler.log'}"
    return SchedulerUnreachable(
        f"the scheduler of {home} (process {pid}, {runtime.url}) is running but has not answered for "
        f"{silent_s:.0f} s: {error}. {advice}. No other is started beside it; `kill {pid}` stops it without "
        "losing jobs that it has accepted",
        pid=pid,
    )
