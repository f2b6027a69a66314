"""The configuration of a simulation, as Cook writes it: an EDN map.

Lives here: `SimConfig`, its defaults (Cook's simulator's own, which differ from Cook's), and reading it.
Not here: EDN itself (`simulation.edn`), what a policy makes of it (`simulation.policies`).

Source: Cook's simulator, as told in the fair-share specification, section 12. Its last version takes what
Fenzo is told from `:settings :pools :schedulers` and passes `:fenzo-config` over; here both are read.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.limits import DEFAULT_USER, SHARE_NAMES, LimitName
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMIT, NEVER_COUNTS, REASONS
from cook_jupyter.simulation.checks import MAX_TIME_MS, whole
from cook_jupyter.simulation.edn import Keyword, Symbol, Value, read

POOL: Final = "no-pool"  # Cook's name for the pool of an installation without pools
MINUTE_MS: Final = 60_000
DEFAULT_CYCLE_STEP_MS: Final = 30_000
_ALIKE: Final = 0.8  # of two keys; Cook's own keys that have no meaning here are less alike than that
DEFAULT_SHARE: Final[Mapping[LimitName, float]] = MappingProxyType({"cpus": 4.0, "mem": 4000.0, "gpus": 1.0})


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalancerConfig:
    """When tasks are preempted: see scheduling.preemption."""

    safe_dru_threshold: float = 1.0
    min_dru_diff: float = 0.5
    max_preemption: float = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchConfig:
    """How jobs are matched with hosts ("Fenzo"): see scheduling.cycle.CycleSettings."""

    max_considered: int = 2000
    scaleback: float = 0.95
    floor_warn: int = 10
    floor_reset: int = 1000
    good_enough: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConstraints:
    """The largest job that may run, and the most attempts it may ask for."""

    memory_gb: float = 140.0
    cpus: float = 40.0
    retry_limit: int = 5
    timeout_hours: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """What a simulation is told besides trace and hosts.

    Attributes:
        shares: by user and resource; what somebody has not is taken from the user `default`.
        cycle_step_ms: simulated time from one cycle to the next.
        rebalance_ms: the rebalancer runs when more than this has passed since it last did.
        optimizer_ms, incremental_output_ms: read, and without effect here.
        mea_culpa_limit, mea_culpa_limits: failures of ours that are free: of any reason, of named ones.
        ignored: keys of the file that mean nothing here, with their way to them.
    """

    shares: Mapping[str, Mapping[LimitName, float]] = field(
        default_factory=lambda: {DEFAULT_USER: DEFAULT_SHARE}
    )
    cycle_step_ms: int = DEFAULT_CYCLE_STEP_MS
    rebalance_ms: int = 30 * MINUTE_MS
    optimizer_ms: int = 3 * MINUTE_MS
    incremental_output_ms: int = 10 * MINUTE_MS
    rebalancer: RebalancerConfig = field(default_factory=RebalancerConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    constraints: TaskConstraints = field(default_factory=TaskConstraints)
    mea_culpa_limit: int = DEFAULT_MEA_CULPA_LIMIT
    mea_culpa_limits: Mapping[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def read_config(path: Path) -> SimConfig:
    """Read a configuration file.

    Raises:
        InvalidRequest: it cannot be read, is not EDN, a value in it is not what its key wants, or a key is
            misspelt.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the configuration {path} cannot be read: {error}") from error
    try:
        return parse_config(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"the configuration {path}: {error}") from error


def parse_config(text: str) -> SimConfig:
    """Read a configuration from EDN.

    Raises:
        InvalidRequest: it is not EDN, or a value in it is not what its key wants.
    """
    top = _Table(read(text), "", [])
    scheduler = top.table(":scheduler-config")
    rebalancer = scheduler.table(":rebalancer-config")
    constraints = scheduler.table(":task-constraints")
    any_limit, limits = _mea_culpa(scheduler)
    config = SimConfig(
        shares=_shares(top),
        cycle_step_ms=top.interval_ms(":cycle-step-ms", DEFAULT_CYCLE_STEP_MS),
        rebalance_ms=top.interval_ms(":time-ms-between-rebalancing", 30 * MINUTE_MS),
        optimizer_ms=top.interval_ms(":time-ms-between-optimizer-calls", 3 * MINUTE_MS),
        incremental_output_ms=top.interval_ms(":time-ms-between-incremental-output", 10 * MINUTE_MS),
        rebalancer=RebalancerConfig(
            safe_dru_threshold=rebalancer.number(":safe-dru-threshold", 1.0, least=0),
            min_dru_diff=rebalancer.number(":min-dru-diff", 0.5, least=0),
            max_preemption=float(rebalancer.integer(":max-preemption", 100, least=0)),
        ),
        match=_match(top, scheduler),
        constraints=TaskConstraints(
            memory_gb=constraints.number(":memory-gb", 140.0, above=0),
            cpus=constraints.number(":cpus", 40.0, above=0),
            retry_limit=constraints.integer(":retry-limit", 5, least=1),
            timeout_hours=constraints.number(":timeout-hours", 1.0, above=0),
        ),
        mea_culpa_limit=any_limit,
        mea_culpa_limits=limits,
    )
    for table in top.all_tables:
        table.refuse_misspelt()
    ignored = [name for table in top.all_tables for name in table.unread()]
    return SimConfig(
        **{name: getattr(config, name) for name in SimConfig.__dataclass_fields__ if name != "ignored"},
        ignored=tuple(ignored),
    )


def _shares(top: "_Table") -> Mapping[str, Mapping[LimitName, float]]:
    if top.get(":shares") is None:
        return {DEFAULT_USER: DEFAULT_SHARE}
    shares: dict[str, Mapping[LimitName, float]] = {}
    for entry in top.tables(":shares"):
        user = entry.text(":user")
        if not user.strip():
            raise InvalidRequest(f"{entry.way} :user {user!r} is empty")
        if user in shares:
            raise InvalidRequest(f"{entry.way} :user {user!r} is there twice")
        shares[user] = {
            name: entry.number(f":{name}", 0.0, above=0) for name in SHARE_NAMES if f":{name}" in entry.names
        }
        if entry.unread():
            expected = ", ".join(f":{name}" for name in ("user", *SHARE_NAMES))
            raise InvalidRequest(f"{entry.unread()[0]} is no key of a share; there are {expected}")
    return shares


def _match(top: "_Table", scheduler: "_Table") -> MatchConfig:
    """The newer place wins if a scheduler stands there for our pool: the first whose regex finds it."""
    fenzo = scheduler.table(":fenzo-config")
    for place in (top, scheduler):
        for entry in place.table(":settings").table(":pools").tables(":schedulers"):
            try:
                applies = re.search(entry.text(":pool-regex", ".*"), POOL) is not None
            except re.error as error:
                raise InvalidRequest(
                    f"{entry.way} :pool-regex is not a regular expression: {error}"
                ) from error
            if applies:
                return _match_of(entry.table(":scheduler-config"))
    return _match_of(fenzo)


def _match_of(table: "_Table") -> MatchConfig:
    known = MatchConfig()
    return MatchConfig(
        max_considered=table.integer(":fenzo-max-jobs-considered", known.max_considered, least=1),
        scaleback=table.number(":fenzo-scaleback", known.scaleback, above=0, most=1),
        floor_warn=table.integer(":fenzo-floor-iterations-before-warn", known.floor_warn, least=0),
        floor_reset=table.integer(":fenzo-floor-iterations-before-reset", known.floor_reset, least=0),
        good_enough=table.number(":good-enough-fitness", known.good_enough, least=0, most=1),
    )


def _mea_culpa(scheduler: "_Table") -> tuple[int, dict[str, int]]:
    key = ":mea-culpa-failure-limit"
    if not isinstance(scheduler.get(key), dict):
        return scheduler.integer(key, DEFAULT_MEA_CULPA_LIMIT, least=NEVER_COUNTS), {}
    table = scheduler.table(key)
    limits = {
        name[1:]: table.integer(name, 0, least=NEVER_COUNTS) for name in table.names if name[1:] in REASONS
    }
    table.expect(f":{name}" for name in REASONS)
    return table.integer(":default", DEFAULT_MEA_CULPA_LIMIT, least=NEVER_COUNTS), limits


class _Table:
    """A map of a configuration; knows its place, and which of its keys were asked for."""

    def __init__(self, value: Value, way: str, all_tables: "list[_Table]") -> None:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{way or 'all of it'} must be a map, not {value!r}")
        self.way = way
        self.all_tables = all_tables
        self._values: dict[str, Any] = {}
        for key, inner in value.items():
            if not isinstance(key, Keyword):
                raise InvalidRequest(f"{way or 'all of it'} has the key {key!r}, which is no keyword")
            self._values[str(key)] = inner
        self._asked: set[str] = set()
        self._expected: set[str] = set()  # keys that have a meaning here, though nobody asked for them
        all_tables.append(self)

    @property
    def names(self) -> list[str]:
        """All keys."""
        return list(self._values)

    def get(self, name: str) -> Any:
        """The value of a key, or None."""
        self._asked.add(name)
        return self._values.get(name)

    def expect(self, names: Iterable[str]) -> None:
        """Add keys that have a meaning here."""
        self._expected.update(names)

    def unread(self) -> list[str]:
        """The keys that nobody asked for, with the way to them."""
        return [self._named(name) for name in self._values if name not in self._asked]

    def refuse_misspelt(self) -> None:
        """Refuse a key without meaning that is nearly one with a meaning.

        Raises:
            InvalidRequest: there is one; the message names the key it looks like.
        """
        for name in self._values.keys() - self._asked:
            missing = sorted((self._asked | self._expected) - self._values.keys())
            alike = get_close_matches(name, missing, n=1, cutoff=_ALIKE)
            if alike:
                raise InvalidRequest(f"{self._named(name)} has no meaning; did you mean {alike[0]}?")

    def table(self, name: str) -> "_Table":
        """The map of a key; an empty one if there is none."""
        value = self.get(name)
        return _Table({} if value is None else value, self._named(name), self.all_tables)

    def tables(self, name: str) -> "list[_Table]":
        """The maps in the vector of a key."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InvalidRequest(f"{self._named(name)} must be a vector of maps, not {value!r}")
        return [
            _Table(item, f"{self._named(name)} [{place}]", self.all_tables)
            for place, item in enumerate(value)
        ]

    def number(
        self,
        name: str,
        default: float,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float | None = None,
    ) -> float:
        """The number of a key, finite and within bounds.

        Args:
            name: the key.
            default: the number if the key is missing.
            above: a bound that must be exceeded.
            least: the smallest number allowed.
            most: the largest number allowed.
        """
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"{self._named(name)} must be a number, not {value!r}")
        if above is not None and value <= above:
            raise InvalidRequest(f"{self._named(name)} must be above {above:g}, not {value!r}")
        if least is not None and value < least:
            raise InvalidRequest(f"{self._named(name)} must be {least:g} or more, not {value!r}")
        if most is not None and value > most:
            raise InvalidRequest(f"{self._named(name)} must be {most:g} or less, not {value!r}")
        if abs(value) > sys.float_info.max:
            raise InvalidRequest(f"{self._named(name)} must be a finite number")
        return value

    def integer(self, name: str, default: int, *, least: int) -> int:
        """The whole number of a key; 100.0 is one, too."""
        return whole(self.number(name, default, least=least, most=2**31 - 1), self._named(name))

    def interval_ms(self, name: str, default: int) -> int:
        """The time span of a key: whole ms, at least one."""
        return whole(self.number(name, default, above=0, most=MAX_TIME_MS), self._named(name))

    def text(self, name: str, default: str | None = None) -> str:
        """The string of a key."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or isinstance(value, Keyword | Symbol):
            raise InvalidRequest(f"{self._named(name)} must be a string, not {value!r}")
        return value

    def _named(self, name: str) -> str:
        return f"{self.way} {name}".strip()
