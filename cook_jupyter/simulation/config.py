"""The configuration of a simulation: an EDN map in the format of Cook's simulator.

Lives here: `SimConfig`, its defaults (those of Cook's simulator, which differ from Cook's), and its parser.
Not here: EDN itself (`simulation.edn`), the settings derived from a policy and a configuration
(`simulation.policies`).

Source: Cook's simulator, as described in the fair-share specification, section 12. Its last version reads the
settings of Fenzo from `:settings :pools :schedulers` and ignores `:fenzo-config`; both are read here.
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
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import DEFAULT_MEA_CULPA_LIMIT, NEVER_COUNTS, REASONS
from cook_jupyter.scheduling.rebalancing.rules import PreemptionThresholds
from cook_jupyter.service.settings.tables import JobSettings, MatchingSettings
from cook_jupyter.simulation.checks import MAX_TIME_MS, to_integer
from cook_jupyter.simulation.edn import Keyword, Symbol, Value, read

POOL: Final = PoolName("no-pool")  # Cook's name for the pool of an installation without pools
MINUTE_MS: Final = 60_000
DEFAULT_CYCLE_STEP_MS: Final = 30_000
_MISSPELT_CUTOFF: Final = 0.8  # similarity of a key to one that is read; Cook's ignored keys stay below
DEFAULT_SHARE: Final[Mapping[LimitName, float]] = MappingProxyType({"cpus": 4.0, "mem": 4000.0, "gpus": 1.0})


COOK_MATCHING: Final = MatchingSettings(max_considered=2000, good_enough=1.0)
COOK_JOBS: Final = JobSettings(max_cpus=40.0, max_mem_mb=140.0 * 1024, retry_limit=5, mea_culpa_limits={})


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """The configuration of a simulation: everything except trace and hosts.

    Attributes:
        shares: shares by user and resource; a missing one is taken from the user `default`.
        cycle_step_ms: simulated time between cycles.
        rebalance_ms: time that must have passed since the last rebalance cycle before the next one.
        optimizer_ms, incremental_output_ms, timeout_hours: keys of Cook that have no effect here.
        rebalancer: parameters of preemption.
        matching: parameters of matching (of Cook's "Fenzo"); the order of the queue is the policy's.
        jobs: upper limits on jobs, and numbers of failures that cost no retry.
        ignored: paths of the keys in the file that are not read.
    """

    shares: Mapping[str, Mapping[LimitName, float]] = field(
        default_factory=lambda: {DEFAULT_USER: DEFAULT_SHARE}
    )
    cycle_step_ms: int = DEFAULT_CYCLE_STEP_MS
    rebalance_ms: int = 30 * MINUTE_MS
    optimizer_ms: int = 3 * MINUTE_MS
    incremental_output_ms: int = 10 * MINUTE_MS
    timeout_hours: float = 1.0
    rebalancer: PreemptionThresholds = field(default_factory=PreemptionThresholds)
    matching: MatchingSettings = COOK_MATCHING
    jobs: JobSettings = COOK_JOBS
    ignored: tuple[str, ...] = ()


def read_config(path: Path) -> SimConfig:
    """Read a configuration file.

    Raises:
        InvalidRequest: the file cannot be read or is not EDN, a value is invalid, or a key is misspelt.
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
    """Parse a configuration from EDN.

    Raises:
        InvalidRequest: the text is not EDN, a value is invalid, or a key is misspelt.
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
        timeout_hours=constraints.number(":timeout-hours", 1.0, above=0),
        rebalancer=PreemptionThresholds(
            safe_dru_threshold=rebalancer.number(":safe-dru-threshold", 1.0, least=0),
            min_dru_diff=rebalancer.number(":min-dru-diff", 0.5, least=0),
            max_preemption=rebalancer.integer(":max-preemption", 100, least=0),
        ),
        matching=_matching(top, scheduler),
        jobs=JobSettings(
            max_mem_mb=1024.0 * constraints.number(":memory-gb", COOK_JOBS.max_mem_mb / 1024, above=0),
            max_cpus=constraints.number(":cpus", COOK_JOBS.max_cpus, above=0),
            retry_limit=constraints.integer(":retry-limit", COOK_JOBS.retry_limit, least=1),
            mea_culpa_limit=any_limit,
            mea_culpa_limits=limits,
        ),
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
            raise InvalidRequest(f"{entry.path} :user {user!r} is empty")
        if user in shares:
            raise InvalidRequest(f"{entry.path} :user {user!r} appears twice")
        shares[user] = {
            name: entry.number(f":{name}", 0.0, above=0) for name in SHARE_NAMES if f":{name}" in entry.names
        }
        if entry.unread():
            expected = ", ".join(f":{name}" for name in ("user", *SHARE_NAMES))
            raise InvalidRequest(f"{entry.unread()[0]} is not a key of a share; valid keys are {expected}")
    return shares


def _matching(top: "_Table", scheduler: "_Table") -> MatchingSettings:
    """Return the parameters of matching: those of the first scheduler for `POOL`, else `:fenzo-config`."""
    fenzo = scheduler.table(":fenzo-config")
    for table in (top, scheduler):
        for entry in table.table(":settings").table(":pools").tables(":schedulers"):
            try:
                applies = re.search(entry.text(":pool-regex", ".*"), POOL) is not None
            except re.error as error:
                raise InvalidRequest(
                    f"{entry.path} :pool-regex is not a regular expression: {error}"
                ) from error
            if applies:
                return _matching_of(entry.table(":scheduler-config"))
    return _matching_of(fenzo)


def _matching_of(table: "_Table") -> MatchingSettings:
    for key in (":fenzo-floor-iterations-before-warn", ":fenzo-floor-iterations-before-reset"):
        table.integer(key, 0, least=0)  # checked, but without effect
    return MatchingSettings(
        max_considered=table.integer(":fenzo-max-jobs-considered", COOK_MATCHING.max_considered, least=1),
        scaleback=table.number(":fenzo-scaleback", COOK_MATCHING.scaleback, above=0, most=1),
        good_enough=table.number(":good-enough-fitness", COOK_MATCHING.good_enough, least=0, most=1),
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
    """A map of a configuration that records which of its keys are read.

    Args:
        value: the map.
        path: path of the map in the configuration, for error messages; empty at the top.
        all_tables: list that collects every map of the configuration.

    Raises:
        InvalidRequest: the value is not a map, or has a key that is not a keyword.
    """

    def __init__(self, value: Value, path: str, all_tables: "list[_Table]") -> None:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path or 'the configuration'} must be a map, not {value!r}")
        self.path = path
        self.all_tables = all_tables
        self._values: dict[str, Any] = {}
        for key, inner in value.items():
            if not isinstance(key, Keyword):
                raise InvalidRequest(
                    f"{path or 'the configuration'} has the key {key!r}, which is not a keyword"
                )
            self._values[str(key)] = inner
        self._read: set[str] = set()
        self._valid: set[str] = set()  # valid keys that were not read
        all_tables.append(self)

    @property
    def names(self) -> list[str]:
        """All keys of the map."""
        return list(self._values)

    def get(self, name: str) -> Any:
        """Return the value of a key, or None."""
        self._read.add(name)
        return self._values.get(name)

    def expect(self, names: Iterable[str]) -> None:
        """Add keys that are valid even if they are not read."""
        self._valid.update(names)

    def unread(self) -> list[str]:
        """Return the paths of the keys that were not read."""
        return [self._path_of(name) for name in self._values if name not in self._read]

    def refuse_misspelt(self) -> None:
        """Refuse an unknown key that is similar to a valid one.

        Raises:
            InvalidRequest: there is such a key; the message names the valid one.
        """
        for name in self._values.keys() - self._read:
            missing = sorted((self._read | self._valid) - self._values.keys())
            similar = get_close_matches(name, missing, n=1, cutoff=_MISSPELT_CUTOFF)
            if similar:
                raise InvalidRequest(f"{self._path_of(name)} is not a known key; did you mean {similar[0]}?")

    def table(self, name: str) -> "_Table":
        """Return the map under a key; an empty one if the key is missing."""
        value = self.get(name)
        return _Table({} if value is None else value, self._path_of(name), self.all_tables)

    def tables(self, name: str) -> "list[_Table]":
        """Return the maps in the vector under a key; none if the key is missing."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InvalidRequest(f"{self._path_of(name)} must be a vector of maps, not {value!r}")
        return [
            _Table(item, f"{self._path_of(name)} [{place}]", self.all_tables)
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
        """Return the number under a key.

        Args:
            name: the key.
            default: number to return if the key is missing.
            above: exclusive lower bound.
            least: inclusive lower bound.
            most: inclusive upper bound.

        Raises:
            InvalidRequest: the value is not a finite number, or is out of bounds.
        """
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"{self._path_of(name)} must be a number, not {value!r}")
        if above is not None and value <= above:
            raise InvalidRequest(f"{self._path_of(name)} must be above {above:g}, not {value!r}")
        if least is not None and value < least:
            raise InvalidRequest(f"{self._path_of(name)} must be {least:g} or more, not {value!r}")
        if most is not None and value > most:
            raise InvalidRequest(f"{self._path_of(name)} must be {most:g} or less, not {value!r}")
        if abs(value) > sys.float_info.max:
            raise InvalidRequest(f"{self._path_of(name)} must be a finite number")
        return value

    def integer(self, name: str, default: int, *, least: int) -> int:
        """Return the whole number under a key; 100.0 counts as one."""
        return to_integer(self.number(name, default, least=least, most=2**31 - 1), self._path_of(name))

    def interval_ms(self, name: str, default: int) -> int:
        """Return the interval under a key: a positive whole number of ms."""
        return to_integer(self.number(name, default, above=0, most=MAX_TIME_MS), self._path_of(name))

    def text(self, name: str, default: str | None = None) -> str:
        """Return the string under a key; it is required unless there is a default."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or isinstance(value, Keyword | Symbol):
            raise InvalidRequest(f"{self._path_of(name)} must be a string, not {value!r}")
        return value

    def _path_of(self, name: str) -> str:
        return f"{self.path} {name}".strip()
