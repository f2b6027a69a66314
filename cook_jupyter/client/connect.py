"""Find the scheduler: the one that was named, else this user's own, else start it.

Lives here: the order of search. The first that says anything counts:

1. the argument of `connect`;
2. the environment: COOK_JUPYTER_URL, COOK_JUPYTER_TOKEN, COOK_JUPYTER_USER;
3. the file `cook_jupyter/config.toml` in the XDG configuration folder, table `[client]`: url, token or
   token_file, user;
4. the runtime file of this user's embedded scheduler;
5. a new embedded scheduler.

Not here: how to ask it (`client.sync`), how it is started (`client.start`).
"""

import logging
import os
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from cook_jupyter.client.home import config_file, home_folder, is_private_file
from cook_jupyter.client.runtime import RuntimeFile, StaleRuntimeFile, is_stopped, read_runtime
from cook_jupyter.client.start import START_TIMEOUT_S, start_embedded, starting
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
_ANSWER_TIMEOUT_S = 5.0  # of a living scheduler, when none would be started
_POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A scheduler that was named.

    Attributes:
        origin: what named it, for messages.
        socket_path: the Unix socket on which it listens as well, if that is known.
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
    """Find a scheduler (see the module for the order), start the embedded one if there is none, and greet it.

    Args:
        url: `http://HOST:PORT`, `https://...` or `unix:///PATH`; None means search.
        token: what the scheduler knows you by.
        user: act as this user; on an embedded scheduler you may be anybody, to try fairness out.
        start: whether to start an embedded scheduler when none is found.
        timeout_s: how long finding and starting may take.

    Returns:
        A client that has had an answer.

    Raises:
        SchedulerUnreachable: none is there, or none could be started; the message says what to do.
        Unauthenticated: the named scheduler does not take the token.
        InvalidRequest: the configuration is wrong; the message names the place.
    """
    named = configured_target(url, token=token, user=user)
    if named.url is not None:
        return _verified_client(named.url, named)
    return _embedded(named, start=start, timeout_s=timeout_s)


def configured_target(url: str | None = None, *, token: str | None = None, user: str | None = None) -> Target:
    """What argument, environment and configuration file say, without asking anybody.

    Raises:
        InvalidRequest: the configuration file is wrong, or no request can carry the user's name.
        Forbidden: others may read the token in it.
    """
    if user is not None:
        require_user_name(user)
    if url is not None:
        return _with_own_token(Target(url=url, token=token, user=user, origin="the argument url"))
    user = user or os.environ.get("COOK_JUPYTER_USER") or None
    token = token or os.environ.get("COOK_JUPYTER_TOKEN") or None
    named = os.environ.get("COOK_JUPYTER_URL")
    if named:
        return _with_own_token(Target(url=named, token=token, user=user, origin="COOK_JUPYTER_URL"))
    path = config_file()
    settings = {} if path is None else _settings(path)
    return Target(
        url=settings.get("url"),
        token=token or settings.get("token"),
        user=user or settings.get("user"),
        origin=str(path),
    )


def named_environment() -> str:
    """Return which variables of this process jobs see, by default: names, separated by commas.

    Raises:
        InvalidRequest: the configuration file is wrong.
        Forbidden: others may read the token in it.
    """
    named = os.environ.get("COOK_JUPYTER_ENVIRONMENT")
    if named is not None:
        return named
    path = config_file()
    return "" if path is None else _settings(path).get("environment", "")


def _with_own_token(target: Target) -> Target:
    """Who names one's own embedded scheduler by its URL need not look its token up."""
    if target.token is None and target.url is not None:
        found = read_runtime(home_folder())
        if isinstance(found, RuntimeFile) and found.url.rstrip("/") == target.url.rstrip("/"):
            return replace(target, token=found.token, socket_path=found.socket or None)
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
    wrong = sorted(key for key, value in table.items() if key not in _SETTINGS or not isinstance(value, str))
    if wrong:
        raise InvalidRequest(
            f"{path}: in [client], {', '.join(wrong)} is not a setting or not a text; "
            f"the settings are {', '.join(sorted(_SETTINGS))}"
        )
    holder = path
    if "token_file" in table:
        holder = path.parent / Path(table.pop("token_file")).expanduser()
        try:
            table["token"] = holder.read_text("utf-8").strip()
        except OSError as error:
            raise InvalidRequest(f"{path}: token_file cannot be read: {error}") from error
    if "token" in table and not is_private_file(holder):
        raise Forbidden(f"{holder} holds a token and must be readable by you alone: chmod 600 {holder}")
    return table


def _verified_client(url: str, target: Target) -> JobClient:
    """A client of a scheduler that was named, once it has answered."""
    client = JobClient(url, token=target.token, user=target.user, socket_path=target.socket_path)
    try:
        client.info_v1()
    except NotFound:
        pass  # an original Cook: it answers, and has no /v1
    except SchedulerUnreachable as error:
        raise SchedulerUnreachable(f"{error} (the address comes from {target.origin})") from error
    return client


def _embedded(target: Target, *, start: bool, timeout_s: float) -> JobClient:
    """A client of this user's embedded scheduler, which is started if its process is gone or never was.

    Raises:
        SchedulerUnreachable: there is none, none could be started, or the one that lives does not answer.
    """
    home = home_folder()
    deadline = time.monotonic() + timeout_s
    while True:
        runtime = read_runtime(home)
        if isinstance(runtime, RuntimeFile):
            patience_s = deadline - time.monotonic() if start else min(timeout_s, _ANSWER_TIMEOUT_S)
            client = _await_answer(home, runtime, target, patience_s)
            if client is not None:
                return client
            continue
        why = runtime.why if isinstance(runtime, StaleRuntimeFile) else "there is no runtime file"
        if not start:
            raise SchedulerUnreachable(
                f"no scheduler is running ({why}). `cook-jupyter up` starts one; COOK_JUPYTER_URL names"
                " another"
            )
        if time.monotonic() > deadline:
            raise SchedulerUnreachable(
                f"schedulers were started in {home}, and each was gone before it answered: {why}"
            )
        with starting(home, timeout_s):
            if isinstance(read_runtime(home), RuntimeFile):
                continue  # another process was faster
            if isinstance(runtime, StaleRuntimeFile):
                logger.warning("The runtime file in %s is stale: %s. Starting another scheduler.", home, why)
            start_embedded(home, max(1.0, deadline - time.monotonic()))


def _await_answer(home: Path, runtime: RuntimeFile, target: Target, timeout_s: float) -> JobClient | None:
    """A client of the living scheduler once it answers; None when its process has ended meanwhile.

    Raises:
        SchedulerUnreachable: it lives and does not answer; `pid` names it.
    """
    began = time.monotonic()
    while True:
        left_s = max(_POLL_INTERVAL_S, began + timeout_s - time.monotonic())
        client = JobClient(
            runtime.url,
            token=runtime.token,
            user=target.user,
            timeout_s=min(TIMEOUT_S, left_s),
            socket_path=runtime.socket or None,
        )
        try:
            client.info_v1()
            client.timeout_s = TIMEOUT_S
            return client
        except (Unauthenticated, SchedulerUnreachable, SchedulerError, NotFound) as error:
            client.close()
            if time.monotonic() - began > timeout_s:
                raise _unresponsive(home, runtime, error, time.monotonic() - began) from error
        time.sleep(_POLL_INTERVAL_S)
        again = read_runtime(home)
        if not isinstance(again, RuntimeFile):
            return None
        runtime = again


def _unresponsive(
    home: Path, runtime: RuntimeFile, error: CookError, silent_s: float
) -> SchedulerUnreachable:
    """The error about a scheduler that lives and gives no answer."""
    pid = runtime.pid
    if is_stopped(pid):
        advice = f"The process is suspended: `kill -CONT {pid}` lets it go on"
    elif isinstance(error, Unauthenticated):
        advice = "It does not know the token of its runtime file, and may no longer be what listens there"
    else:
        advice = f"It may be overloaded, and answer later; {home / 'log' / 'scheduler.log'} may tell more"
    return SchedulerUnreachable(
        f"the scheduler of {home} (process {pid}, {runtime.url}) lives and has given no answer for "
        f"{silent_s:.0f} s: {error}. {advice}. No other is started beside it; `kill {pid}` ends it, and what "
        "it has accepted stays accepted",
        pid=pid,
    )
