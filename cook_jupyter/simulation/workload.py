"""Synthetic workloads: users with typical habits, the jobs they submit, and hosts to run them on.

Lives here: the habits of users (`Profile`), mixes of users (`SCENARIOS`), and `generate`, which makes a
workload of any size from a scenario and a seed: the same arguments give the same bytes.
Not here: Cook's file formats (`simulation.traces`), the simulation (`simulation.replay`).

Jobs are kept in columns, so a million take a second or two.

Source: the user profiles of Cook's older system simulator, as described in the specification, end of
section 12: clipped normal distributions of the spacing of jobs, their run time, memory and cpus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.job import JobId
from cook_jupyter.model.limits import Share
from cook_jupyter.simulation.checks import is_positive
from cook_jupyter.simulation.traces import SimHost, TraceJob

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MINUTE_MS = 60_000.0
MB_PER_CPU = 4096.0
PORTS = (31_000, 32_000)
RETRIES = 5  # the most that Cook's simulator allows, so that preemptions do not make jobs fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Normal:
    """A normal distribution, clipped to a floor and a ceiling."""

    mean: float
    deviation: float
    floor: float
    ceiling: float

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw `count` random numbers."""
        return np.clip(rng.normal(self.mean, self.deviation, count), self.floor, self.ceiling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The habits of a kind of user: when their jobs are submitted, and how large and long the jobs are.

    The time of the workload is divided into equal slots, one per wave of submissions.

    Attributes:
        run_time_ms: run time of a job.
        cpus, mem_mb: requested resources, rounded to whole cpus and MB.
        spacing: relative distance between the jobs of a wave.
        waves: number of waves.
        width: fraction of its slot that a wave fills.
        phase: position of a wave in its slot, from 0 (as early as possible) to 1 (as late as possible); None
            for a random position for each user and wave.
    """

    run_time_ms: Normal
    cpus: Normal
    mem_mb: Normal
    spacing: Normal = Normal(mean=1.0, deviation=0.5, floor=0.0, ceiling=3.0)
    waves: int = 1
    width: float = 1.0
    phase: float | None = None


_SMALL = Normal(mean=1.5, deviation=1.0, floor=1.0, ceiling=4.0)
_SMALL_MEM = Normal(mean=3000.0, deviation=1500.0, floor=256.0, ceiling=12_000.0)
_TEN_MINUTES = Normal(
    mean=10 * MINUTE_MS, deviation=6 * MINUTE_MS, floor=0.5 * MINUTE_MS, ceiling=40 * MINUTE_MS
)

STEADY = Profile(run_time_ms=_TEN_MINUTES, cpus=_SMALL, mem_mb=_SMALL_MEM)
BURSTS = Profile(run_time_ms=_TEN_MINUTES, cpus=_SMALL, mem_mb=_SMALL_MEM, waves=4, width=0.02)
NIGHTLY = Profile(run_time_ms=_TEN_MINUTES, cpus=_SMALL, mem_mb=_SMALL_MEM, waves=2, width=0.1, phase=0.8)
HOG = Profile(run_time_ms=_TEN_MINUTES, cpus=_SMALL, mem_mb=_SMALL_MEM, width=0.02, phase=0.0)
SHORT = Profile(
    run_time_ms=Normal(
        mean=3 * MINUTE_MS, deviation=MINUTE_MS, floor=0.25 * MINUTE_MS, ceiling=8 * MINUTE_MS
    ),
    cpus=Normal(mean=1.0, deviation=0.5, floor=1.0, ceiling=2.0),
    mem_mb=_SMALL_MEM,
    waves=4,
    width=0.5,
)
LONG = Profile(
    run_time_ms=Normal(
        mean=240 * MINUTE_MS, deviation=90 * MINUTE_MS, floor=60 * MINUTE_MS, ceiling=600 * MINUTE_MS
    ),
    cpus=Normal(mean=4.0, deviation=2.0, floor=1.0, ceiling=8.0),
    mem_mb=Normal(mean=16_000.0, deviation=6000.0, floor=4000.0, ceiling=32_000.0),
    width=0.1,
    phase=0.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserGroup:
    """Users with the same profile.

    Attributes:
        profile: habits of the users.
        users: weight of the group in the division of all users; every group has at least one user.
        jobs: weight of the group in the division of all jobs.
    """

    profile: Profile
    users: float
    jobs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A mix of groups of users.

    Attributes:
        description: description of the scenario in one sentence.
        groups: groups by name; users are named after their group.
        load: resources that the jobs need over those that the hosts have while jobs are submitted; above 1
            the queue grows.
    """

    description: str
    groups: Mapping[str, UserGroup]
    load: float


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "one-hog": Scenario(
            description="One user submits half of all jobs in the first minutes; the others submit steadily.",
            groups={
                "hog": UserGroup(profile=HOG, users=0.0, jobs=0.5),
                "steady": UserGroup(profile=STEADY, users=1.0, jobs=0.5),
            },
            load=1.2,
        ),
        "bursts": Scenario(
            description="Every user submits jobs in four bursts, each user at different times.",
            groups={"bursts": UserGroup(profile=BURSTS, users=1.0, jobs=1.0)},
            load=0.9,
        ),
        "short-against-long": Scenario(
            description="Long jobs start on idle hosts; then come a hundred short jobs for each of them.",
            groups={
                "long": UserGroup(profile=LONG, users=0.3, jobs=10.0),
                "short": UserGroup(profile=SHORT, users=0.7, jobs=1000.0),
            },
            load=1.0,
        ),
        "steady": Scenario(
            description="All users submit all the time, together a third more than the hosts can run.",
            groups={"steady": UserGroup(profile=STEADY, users=1.0, jobs=1.0)},
            load=4 / 3,
        ),
        "lab": Scenario(
            description="One user fills the queue at the start; some submit in bursts, the others steadily.",
            groups={
                "bursts": UserGroup(profile=BURSTS, users=0.4, jobs=0.3),
                "hog": UserGroup(profile=HOG, users=0.0, jobs=0.4),
                "steady": UserGroup(profile=STEADY, users=0.6, jobs=0.3),
            },
            load=1.0,
        ),
        "office": Scenario(
            description="Steady users, bursts, nightly runs and a few long jobs, as at a typical site.",
            groups={
                "bursts": UserGroup(profile=BURSTS, users=0.3, jobs=0.35),
                "long": UserGroup(profile=LONG, users=0.1, jobs=0.01),
                "nightly": UserGroup(profile=NIGHTLY, users=0.2, jobs=0.34),
                "steady": UserGroup(profile=STEADY, users=0.4, jobs=0.3),
            },
            load=1.0,
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A generated workload: jobs in columns, sorted by time of submission, and identical hosts.

    Attributes:
        users: names of all users.
        uuids: id of each job.
        user: index into `users` of each job's user.
        submit_ms, run_time_ms: time of submission and run time of each job.
        cpus, mem_mb: requested resources of each job.
        hosts: names of all hosts.
        cpus_per_host, mem_mb_per_host: resources of each host.
    """

    users: tuple[str, ...]
    uuids: Sequence[JobId]
    user: Ints
    submit_ms: Ints
    run_time_ms: Ints
    cpus: Floats
    mem_mb: Floats
    hosts: tuple[str, ...]
    cpus_per_host: float
    mem_mb_per_host: float

    def __len__(self) -> int:
        return len(self.submit_ms)

    @property
    def even_share(self) -> Share:
        """An equal part of all hosts, as the share of the user `default`."""
        part = len(self.hosts) / len(self.users)
        return Share(cpus=self.cpus_per_host * part, mem_mb=self.mem_mb_per_host * part, gpus=1.0)

    def trace(self) -> list[TraceJob]:
        """Return the jobs as a trace; every attempt that is not stopped succeeds."""
        users = self.users
        return [
            TraceJob(uuid, users[user], submit_ms, run_time_ms, cpus, mem_mb, max_retries=RETRIES)
            for uuid, user, submit_ms, run_time_ms, cpus, mem_mb in zip(
                self.uuids,
                self.user.tolist(),
                self.submit_ms.tolist(),
                self.run_time_ms.tolist(),
                self.cpus.tolist(),
                self.mem_mb.tolist(),
                strict=True,
            )
        ]

    def sim_hosts(self) -> list[SimHost]:
        """Return the hosts in the form that `simulate` takes."""
        return [
            SimHost(name, self.cpus_per_host, self.mem_mb_per_host, ports=(PORTS,), slave_id=f"S{number}")
            for number, name in enumerate(self.hosts)
        ]


def generate(
    scenario: str,
    *,
    jobs: int,
    users: int,
    hosts: int,
    cpus_per_host: int = 32,
    mem_mb_per_host: float | None = None,
    load: float | None = None,
    seed: int = 0,
) -> Workload:
    """Generate a workload.

    Args:
        scenario: a name in `SCENARIOS`.
        jobs: number of jobs, at least one per user.
        users: number of users, at least one per group of the scenario.
        hosts: number of identical hosts.
        cpus_per_host: whole cpus of each host; no job requests more.
        mem_mb_per_host: memory of each host; no job requests more. None for 4096 MB per cpu.
        load: resources that the jobs need over those that the hosts have while jobs are submitted, which
            determines how long that takes; None for the load of the scenario.
        seed: seed of the random numbers.

    Raises:
        ValueError: the scenario is unknown, or a size is too small for it or invalid.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"unknown scenario {scenario!r}; valid scenarios are {', '.join(sorted(SCENARIOS))}")
    spec = SCENARIOS[scenario]
    load = spec.load if load is None else load
    mem_mb_per_host = MB_PER_CPU * cpus_per_host if mem_mb_per_host is None else mem_mb_per_host
    if users < len(spec.groups) or jobs < users:
        raise ValueError(
            f"{scenario} needs at least {len(spec.groups)} users and a job for each"
            f" (users: {users}, jobs: {jobs})"
        )
    if not all(map(is_positive, (hosts, cpus_per_host, mem_mb_per_host, load))):
        raise ValueError(
            "the number of hosts, their cpus and memory, and the load must be positive and finite"
        )
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, not {seed}")

    rng = np.random.default_rng(seed)
    groups = list(spec.groups.items())
    users_of = _divide(users, [group.users for _, group in groups])
    jobs_of = _divide(jobs, [group.jobs for _, group in groups], at_least=users_of)
    names: list[str] = []
    parts: list[_Part] = []
    for (name, group), group_users, group_jobs in zip(groups, users_of, jobs_of, strict=True):
        parts.append(_jobs_of_group(group.profile, group_users, group_jobs, first_user=len(names), rng=rng))
        digits = len(str(group_users))
        names += [
            name if group_users == 1 else f"{name}-{number:0{digits}}" for number in range(1, group_users + 1)
        ]

    user, arrival, run_time, cpus, mem = (np.concatenate(column) for column in zip(*parts, strict=True))
    cpus = np.clip(np.rint(cpus), 1.0, cpus_per_host)
    mem = np.minimum(np.rint(mem), mem_mb_per_host)
    run_time_ms = np.rint(run_time)
    host_ms = max(
        float((cpus * run_time_ms).sum()) / cpus_per_host, float((mem * run_time_ms).sum()) / mem_mb_per_host
    )
    submit_ms = np.rint(arrival * (host_ms / hosts / load)).astype(np.int64)
    order = np.argsort(submit_ms, kind="stable")
    digits = len(str(hosts))
    return Workload(
        users=tuple(names),
        uuids=_uuids(rng, jobs),
        user=user[order].astype(np.int64),
        submit_ms=submit_ms[order] - submit_ms[order[0]],
        run_time_ms=run_time_ms[order].astype(np.int64),
        cpus=cpus[order],
        mem_mb=mem[order],
        hosts=tuple(f"host-{number:0{digits}}" for number in range(1, hosts + 1)),
        cpus_per_host=float(cpus_per_host),
        mem_mb_per_host=float(mem_mb_per_host),
    )


_Part = tuple[Ints, Floats, Floats, Floats, Floats]  # user, when (0..1), run time, cpus, memory


def _jobs_of_group(
    profile: Profile, users: int, jobs: int, *, first_user: int, rng: np.random.Generator
) -> _Part:
    activity = Normal(mean=1.0, deviation=0.3, floor=0.25, ceiling=2.0).draw(rng, users)
    jobs_of = _divide(jobs, activity.tolist(), at_least=[1] * users)
    arrivals = [_arrivals(profile, count, rng) for count in jobs_of]
    return (
        np.repeat(np.arange(first_user, first_user + users), jobs_of),
        np.concatenate(arrivals),
        profile.run_time_ms.draw(rng, jobs),
        profile.cpus.draw(rng, jobs),
        profile.mem_mb.draw(rng, jobs),
    )


def _arrivals(profile: Profile, jobs: int, rng: np.random.Generator) -> Floats:
    """Draw the times of submission of one user's jobs, as fractions of the whole submission time."""
    phases = rng.random(profile.waves) if profile.phase is None else np.full(profile.waves, profile.phase)
    arrivals = []
    for wave, count in enumerate(_divide(jobs, [1.0] * profile.waves, at_least=[0] * profile.waves)):
        gaps = profile.spacing.draw(rng, count + 1)
        within = np.cumsum(gaps)[:count] / max(float(gaps.sum()), np.finfo(float).tiny)
        begin = phases[wave] * (1.0 - profile.width)
        arrivals.append((wave + begin + profile.width * within) / profile.waves)
    return np.concatenate(arrivals)


def _divide(whole: int, weights: Sequence[float], at_least: Sequence[int] | None = None) -> list[int]:
    """Divide a number in proportion to weights, with a minimum for each part (1 by default)."""
    minimums = np.array([1] * len(weights) if at_least is None else at_least)
    shares = np.array(weights, dtype=float)
    parts = np.maximum(np.floor(whole * shares / shares.sum()).astype(np.int64), minimums)
    while (missing := whole - int(parts.sum())) != 0:
        # Rounding or minimums left a difference: settle it with the parts furthest above their minimum.
        for index in np.argsort(minimums - parts, kind="stable")[: abs(missing)]:
            if missing > 0 or parts[index] > minimums[index]:
                parts[index] += 1 if missing > 0 else -1
    return [int(part) for part in parts]


def _uuids(rng: np.random.Generator, count: int) -> list[JobId]:
    """Draw random uuids (version 4)."""
    values = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    values[:, 6] = (values[:, 6] & 0x0F) | 0x40
    values[:, 8] = (values[:, 8] & 0x3F) | 0x80
    digits = values.tobytes().hex()
    uuids = [
        f"{digits[start : start + 8]}-{digits[start + 8 : start + 12]}-{digits[start + 12 : start + 16]}"
        f"-{digits[start + 16 : start + 20]}-{digits[start + 20 : start + 32]}"
        for start in range(0, 32 * count, 32)
    ]
    return cast("list[JobId]", uuids)
