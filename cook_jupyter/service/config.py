"""Typed settings of a scheduler, and where its files are.

Lives here: `Settings`, its defaults (Cook's, unless said), reading them from TOML, and the
layout of the home directory. Not here: what users of the notebook wing configure (`client.connect`).
"""

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.pool import Pool
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMIT, FreeFailures

HOME_VARIABLE = "COOK_JUPYTER_HOME"

# What node agents do, told to Cook's clients by /settings; nobody may set it.
PROGRESS_REGEX = r"progress:\s+([0-9]*\.?[0-9]+)($|\s+.*)"
PROGRESS_PUBLISH_MS = 1000
RUNTIME_CHECK_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The directory that holds all state of an embedded scheduler; 0700, one Unix user's."""

    root: Path

    @classmethod
    def default(cls) -> "Home":
        """Return the home named by COOK_JUPYTER_HOME, else the one below XDG_STATE_HOME."""
        named = os.environ.get(HOME_VARIABLE)
        if named:
            return cls(root=Path(named).expanduser().absolute())
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return cls(root=Path(state).expanduser().absolute() / "cook_jupyter")

    def make(self) -> None:
        """Create the directories, closed to others.

        Raises:
            InvalidRequest: the home belongs to somebody else.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.root.stat()
        if found.st_uid != os.getuid():
            raise InvalidRequest(
                f"the home {self.root} belongs to uid {found.st_uid}, not to you (uid {os.getuid()}):"
                f" set {HOME_VARIABLE} to a directory of your own"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            self.root.chmod(0o700)
        for directory in (self.blobs, self.keys, self.agent, self.logs):
            directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def runtime_file(self) -> Path:
        """Where the running scheduler says how to reach it."""
        return self.root / "scheduler.json"

    @property
    def lock_file(self) -> Path:
        """Held by the running scheduler for as long as it lives."""
        return self.root / "scheduler.lock"

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.root / "store.sqlite"

    @property
    def blobs(self) -> Path:
        """Where large payloads rest."""
        return self.root / "blobs"

    @property
    def keys(self) -> Path:
        """Where users' signing keys rest."""
        return self.root / "keys"

    @property
    def agent(self) -> Path:
        """The node agent's own directory."""
        return self.root / "agent"

    @property
    def logs(self) -> Path:
        """Where processes without a terminal write."""
        return self.root / "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimit:
    """How many jobs may wait in the pools that `pool_regex` finds (Cook's queue-limits)."""

    pool_regex: str = ".*"
    pool_global_threshold: int = 2147483647
    user_limit_normal: int = 2147483647
    user_limit_constrained: int = 2147483647


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may set. Defaults are Cook's where Cook has one.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        synchronous: SQLite's setting: NORMAL survives kill -9, FULL survives power loss too.
        cpus, mem_mb: what the local cluster offers; None is all the machine has.
        max_cpus, max_mem_mb: the most one job may ask for (task-constraints).
        max_runtime_ms: the longest that any instance may run, whatever its job asks for; None does not limit.
        retry_limit: the most attempts a job may ask for.
        rank_interval_ms: the timer behind the events: a cycle runs at least this often.
        mea_culpa_limit, mea_culpa_limits: how many failures of a reason that is ours cost a job no retry: of
            any such reason, and of those that are named; -1 for any number.
        default_shares: the share of the user `default` where the store has none, by limit name.
    """

    host: str = "127.0.0.1"
    port: int = 0
    socket: str | None = None
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    pools: tuple[Pool, ...] = (Pool(name="default", purpose="this machine"),)
    default_pool: str = "default"
    cpus: float | None = None
    mem_mb: float | None = None
    agent_idle_exit_s: float = 3600.0
    kill_grace_s: float = 5.0
    max_cpus: float = 1_000_000.0
    max_mem_mb: float = 1024.0 * 1_000_000
    max_ports: int = 5
    retry_limit: int = 20
    command_length_limit: int = 65_536
    max_runtime_ms: int | None = None
    mea_culpa_limit: int = DEFAULT_MEA_CULPA_LIMIT
    mea_culpa_limits: Mapping[str, int] = field(default_factory=dict)
    max_considered: int = 1000
    scaleback: float = 0.95
    good_enough: float = 0.8
    max_over_quota_jobs: int = 100
    rank_interval_ms: int = 5000
    queue_limits: tuple[QueueLimit, ...] = ()
    cors_origins: tuple[str, ...] = ()
    impersonators: frozenset[str] = frozenset()
    admins: frozenset[str] = frozenset()
    body_bytes: int = 8 * 1024 * 1024
    jobs_per_submission: int = 10_000
    inline_result_bytes: int = 64 * 1024
    default_shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def free_failures(self) -> FreeFailures:
        """How many failures of ours cost a job no retry."""
        return FreeFailures(default=self.mea_culpa_limit, by_reason=self.mea_culpa_limits)


def load_settings(path: Path | None, **overrides: Any) -> Settings:
    """Read settings from a TOML file and lay `overrides` that are not None over them.

    Raises:
        InvalidRequest: the file is not TOML, or names a setting that does not exist.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InvalidRequest(f"the settings file {path} cannot be read: {error}") from error
    known = {f.name for f in fields(Settings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InvalidRequest(
            f"the settings file {path} names unknown settings: {', '.join(unknown)};"
            f" known are: {', '.join(sorted(known))}"
        )
    if "pools" in values:
        values["pools"] = tuple(Pool(**pool) for pool in values["pools"])
    if "queue_limits" in values:
        values["queue_limits"] = tuple(QueueLimit(**limit) for limit in values["queue_limits"])
    for name in ("impersonators", "admins"):
        if name in values:
            values[name] = frozenset(values[name])
    values.update({name: value for name, value in overrides.items() if value is not None})
    settings = Settings(**values)
    if settings.default_pool not in {pool.name for pool in settings.pools}:
        raise InvalidRequest(
            f"the default pool {settings.default_pool!r} is not one of the pools"
            f" {[pool.name for pool in settings.pools]}: set default_pool to one of them"
        )
    return settings
