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
from dataclasses import dataclass
from pathlib import Path

from cook_jupyter.client.home import config_file, home_folder, is_private_file
from cook_jupyter.client.runtime import Runtime, Stale, read_runtime
from cook_jupyter.client.start import START_TIMEOUT_S, forget_runtime, start_embedded, starting
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import Forbidden, InvalidRequest, NotFound, SchedulerUnreachable, Unauthenticated

logger = logging.getLogger("cook_jupyter.client")

_SETTINGS = frozenset({"url", "token", "token_file", "user"})
_GRACE_S = 2.0  # a scheduler that lives and does not listen is just ending, or stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A scheduler that was named. `origin` says where, for messages."""

    url: str | None
    token: str | None
    user: str | None
    origin: str


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
    named = named_target(url, token=token, user=user)
    if named.url is not None:
        return _greeted(named.url, named)
    return _embedded(named, start=start, timeout_s=timeout_s)


def named_target(url: str | None = None, *, token: str | None = None, user: str | None = None) -> Target:
    """What argument, environment and configuration file say, without asking anybody.

    Raises:
        InvalidRequest: the configuration file is wrong.
        Forbidden: others may read the token in it.
    """
    if url is not None:
        return _with_own_token(Target(url=url, token=token, user=user, origin="the argument url"))
    user = user or os.environ.get("COOK_JUPYTER_USER") or None
    token = token or os.environ.get("COOK_JUPYTER_TOKEN") or None
    named = os.environ.get("COOK_JUPYTER_URL")
    if named:
        return _with_own_token(Target(url=named, token=token, user=user, origin="COOK_JUPYTER_URL"))
    settings = _settings(config_file())
    return Target(
        url=settings.get("url"),
        token=token or settings.get("token"),
        user=user or settings.get("user"),
        origin=str(config_file()),
    )


def _with_own_token(target: Target) -> Target:
    """Who names one's own embedded scheduler by its URL need not look its token up."""
    if target.token is None and target.url is not None:
        found = read_runtime(home_folder())
        if isinstance(found, Runtime) and found.url.rstrip("/") == target.url.rstrip("/"):
            return Target(url=target.url, token=found.token, user=target.user, origin=target.origin)
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


def _greeted(url: str, target: Target) -> JobClient:
    """A client of a scheduler that was named, once it has answered."""
    client = JobClient(url, token=target.token, user=target.user)
    try:
        client.info_v1()
    except NotFound:
        pass  # an original Cook: it answers, and has no /v1
    except SchedulerUnreachable as error:
        raise SchedulerUnreachable(f"{error} (the address comes from {target.origin})") from error
    return client


def _embedded(target: Target, *, start: bool, timeout_s: float) -> JobClient:
    """A client of this user's embedded scheduler, which is started if need be."""
    home = home_folder()
    deadline = time.monotonic() + timeout_s
    client, why = _living(home, target)
    if client is not None:
        return client
    if not start:
        raise SchedulerUnreachable(
            f"no scheduler is running ({why}). `cook-jupyter up` starts one; COOK_JUPYTER_URL names another"
        )
    with starting(home, timeout_s):
        while True:
            client, why = _living(home, target)  # somebody may have been faster
            if client is not None:
                return client
            if time.monotonic() > deadline:
                raise SchedulerUnreachable(
                    f"schedulers were started in {home}, and each was gone before it answered: {why}"
                )
            if why != _NO_FILE:
                logger.warning("The runtime file in %s is stale: %s. Starting another scheduler.", home, why)
                forget_runtime(home)
            try:
                start_embedded(home, max(1.0, deadline - time.monotonic()))
            except SchedulerUnreachable:
                if not isinstance(read_runtime(home), Stale):
                    raise  # it never listened: another one would not either


_NO_FILE = "there is no runtime file"


def _living(home: Path, target: Target) -> tuple[JobClient | None, str]:
    """A client of the scheduler that the runtime file tells of, else why there is none."""
    found = read_runtime(home)
    if found is None:
        return None, _NO_FILE
    if isinstance(found, Stale):
        return None, found.why
    deadline = time.monotonic() + _GRACE_S
    while True:
        client = JobClient(found.url, token=found.token, user=target.user)
        try:
            client.info_v1()
            return client, ""
        except Unauthenticated:
            return None, f"what listens at {found.url} does not know its token"
        except (SchedulerUnreachable, NotFound) as error:
            client.close()
            if time.monotonic() > deadline:
                return None, f"process {found.pid} lives but {error}"
        time.sleep(0.05)
        again = read_runtime(home)  # it may have ended meanwhile, or another one begun
        if again is None:
            return None, _NO_FILE
        if isinstance(again, Stale):
            return None, again.why
        found = again
