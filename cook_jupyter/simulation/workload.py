"""Made-up workloads: users with habits, the jobs they submit, and hosts to run them on.

Lives here: what a user of some habit submits (`Profile`), who stands against whom (`SCENARIOS`), and
`generate`, which makes a workload of any size out of a scenario and a seed: same arguments, same bytes.
Not here: Cook's file formats (traces), what becomes of the jobs (replay).

Jobs are kept in columns, so that a million are made in a second or two.

Source: the user profiles of Cook's older system simulator, as told in the specification, end of section 12:
normal distributions with floor and ceiling for the spacing of jobs, their run time, memory and cpus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from cook_jupyter.model.limits import Share
from cook_jupyter.simulation.checks import is_positive
from cook_jupyter.simulation.traces import SimHost, TraceJob

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MINUTE_MS = 60_000.0
MB_PER_CPU = 4096.0
PORTS = (31_000, 32_000)
RETRIES = 5  # the most that Cook's simulator allows: a job that was preempted often must not fail for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Normal:
    """A normal distribution whose tails are laid on its floor and its ceiling."""

    mean: float
    deviation: float
    floor: float
    ceiling: float

    def draw(self, dice: np.random.Generator, count: int) -> Floats:
        """Draw `count` numbers."""
        return np.clip(dice.normal(self.mean, self.deviation, count), self.floor, self.ceiling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The habit of a user.

    Jobs come in `waves`, spread evenly over the time of the workload. A wave fills the part `width` of its
    turn, and lies there at `phase` (0 as early, 1 as late as possible); without phase each user draws one for
    each wave.
    """

    run_time_ms: Normal
    cpus: Normal  # rounded to whole cpus
    mem_mb: Normal  # rounded to whole MB
    spacing: Normal = Normal(
        mean=1.0, deviation=0.5, floor=0.0, ceiling=3.0
    )  # between jobs of a wave: relative
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
class Group:
    """Users of one habit: their part of all users and of all jobs. Any group has at least one user."""

    profile: Profile
    users: float
    jobs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Who stands against whom, in a sentence and in groups by name. Users are named after their group."""

    about: str
    groups: Mapping[str, Group]
    load: float  # what the jobs need over what the hosts have while jobs are submitted; above 1 a queue grows


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "one-hog": Scenario(
            about="One user submits half of all jobs in the first minutes; the others come and go as usual.",
            groups={
                "hog": Group(profile=HOG, users=0.0, jobs=0.5),
                "steady": Group(profile=STEADY, users=1.0, jobs=0.5),
            },
            load=1.2,
        ),
        "bursts": Scenario(
            about="Everybody submits everything at once, four times, each at hours of their own.",
            groups={"bursts": Group(profile=BURSTS, users=1.0, jobs=1.0)},
            load=0.9,
        ),
        "short-against-long": Scenario(
            about="Ten long jobs start while all is quiet; then, for each ten, a thousand short ones come.",
            groups={
                "long": Group(profile=LONG, users=0.3, jobs=10.0),
                "short": Group(profile=SHORT, users=0.7, jobs=1000.0),
            },
            load=1.0,
        ),
        "steady": Scenario(
            about="Everybody submits all the time, together a third more than there is room for.",
            groups={"steady": Group(profile=STEADY, users=1.0, jobs=1.0)},
            load=4 / 3,
        ),
        "lab": Scenario(
            about="One user fills the queue at the start; some come in bursts, the others work all the time.",
            groups={
                "bursts": Group(profile=BURSTS, users=0.4, jobs=0.3),
                "hog": Group(profile=HOG, users=0.0, jobs=0.4),
                "steady": Group(profile=STEADY, users=0.6, jobs=0.3),
            },
            load=1.0,
        ),
        "office": Scenario(
            about="Steady users, users with bursts, nightly runs and a few long jobs, as at a typical site.",
            groups={
                "bursts": Group(profile=BURSTS, users=0.3, jobs=0.35),
                "long": Group(profile=LONG, users=0.1, jobs=0.01),
                "nightly": Group(profile=NIGHTLY, users=0.2, jobs=0.34),
                "steady": Group(profile=STEADY, users=0.4, jobs=0.3),
            },
            load=1.0,
        ),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Jobs in columns, ordered by submit time, and the hosts they are meant for (all of one shape)."""

    users: tuple[str, ...]
    uuids: Sequence[str]
    user: Ints  # place in `users`
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
        """What each user had if all hosts were divided evenly: a just share for the user `default`."""
        part = len(self.hosts) / len(self.users)
        return Share(cpus=self.cpus_per_host * part, mem_mb=self.mem_mb_per_host * part, gpus=1.0)

    def trace(self) -> list[TraceJob]:
        """The jobs as a trace; every attempt that is left alone succeeds."""
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
        """The hosts as a simulation wants them."""
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
    """Make a workload.

    Args:
        scenario: a name of SCENARIOS.
        jobs: how many, at least one per user.
        users: how many, at least one per group of the scenario.
        hosts: how many, all alike.
        cpus_per_host: whole cpus; no job asks for more.
        mem_mb_per_host: no job asks for more; 4096 MB per cpu if not given.
        load: what the jobs need over what the hosts have, while jobs are submitted; the scenario's own if not
            given. It sets how long that is.
        seed: another one makes another workload of the same kind.

    Raises:
        ValueError: no such scenario, or a size that is too small for it.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"there is no scenario {scenario!r}; there are {', '.join(sorted(SCENARIOS))}")
    chosen = SCENARIOS[scenario]
    load = chosen.load if load is None else load
    mem_mb_per_host = MB_PER_CPU * cpus_per_host if mem_mb_per_host is None else mem_mb_per_host
    if users < len(chosen.groups) or jobs < users:
        raise ValueError(
            f"{scenario} needs at least {len(chosen.groups)} users and a job for each"
            f" (users: {users}, jobs: {jobs})"
        )
    if not all(map(is_positive, (hosts, cpus_per_host, mem_mb_per_host, load))):
        raise ValueError("hosts, their cpus and memory, and the load must be finite and above zero")
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, not {seed}")

    dice = np.random.default_rng(seed)
    groups = list(chosen.groups.items())
    users_of = _divide(users, [group.users for _, group in groups])
    jobs_of = _divide(jobs, [group.jobs for _, group in groups], at_least=users_of)
    names: list[str] = []
    parts: list[_Part] = []
    for (name, group), its_users, its_jobs in zip(groups, users_of, jobs_of, strict=True):
        parts.append(_jobs_of_group(group.profile, its_users, its_jobs, first_user=len(names), dice=dice))
        digits = len(str(its_users))
        names += [
            name if its_users == 1 else f"{name}-{number:0{digits}}" for number in range(1, its_users + 1)
        ]

    user, when, run_time, cpus, mem = (np.concatenate(column) for column in zip(*parts, strict=True))
    cpus = np.clip(np.rint(cpus), 1.0, cpus_per_host)
    mem = np.minimum(np.rint(mem), mem_mb_per_host)
    run_time_ms = np.rint(run_time)
    needed = max(
        float((cpus * run_time_ms).sum()) / cpus_per_host, float((mem * run_time_ms).sum()) / mem_mb_per_host
    )
    submit_ms = np.rint(when * (needed / hosts / load)).astype(np.int64)
    order = np.argsort(submit_ms, kind="stable")
    digits = len(str(hosts))
    return Workload(
        users=tuple(names),
        uuids=_uuids(dice, jobs),
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
    profile: Profile, users: int, jobs: int, *, first_user: int, dice: np.random.Generator
) -> _Part:
    diligence = Normal(mean=1.0, deviation=0.3, floor=0.25, ceiling=2.0).draw(dice, users)
    jobs_of = _divide(jobs, diligence.tolist(), at_least=[1] * users)
    when = [_arrivals(profile, count, dice) for count in jobs_of]
    return (
        np.repeat(np.arange(first_user, first_user + users), jobs_of),
        np.concatenate(when),
        profile.run_time_ms.draw(dice, jobs),
        profile.cpus.draw(dice, jobs),
        profile.mem_mb.draw(dice, jobs),
    )


def _arrivals(profile: Profile, jobs: int, dice: np.random.Generator) -> Floats:
    """When the jobs of one user come, as parts (0..1) of the time in which jobs are submitted."""
    phases = dice.random(profile.waves) if profile.phase is None else np.full(profile.waves, profile.phase)
    arrivals = []
    for wave, count in enumerate(_divide(jobs, [1.0] * profile.waves, at_least=[0] * profile.waves)):
        gaps = profile.spacing.draw(dice, count + 1)
        within = np.cumsum(gaps)[:count] / max(float(gaps.sum()), np.finfo(float).tiny)
        begin = phases[wave] * (1.0 - profile.width)
        arrivals.append((wave + begin + profile.width * within) / profile.waves)
    return np.concatenate(arrivals)


def _divide(whole: int, weights: Sequence[float], at_least: Sequence[int] | None = None) -> list[int]:
    """Divide a number in proportion to weights; no part is below its minimum (one, if none is given)."""
    least = np.array([1] * len(weights) if at_least is None else at_least)
    wanted = np.array(weights, dtype=float)
    parts = np.maximum(np.floor(whole * wanted / wanted.sum()).astype(np.int64), least)
    while (missing := whole - int(parts.sum())) != 0:
        # Parts were rounded, or minima took more than their weight: settle with those that have most to give.
        for at in np.argsort(least - parts, kind="stable")[: abs(missing)]:
            if missing > 0 or parts[at] > least[at]:
                parts[at] += 1 if missing > 0 else -1
    return [int(part) for part in parts]


def _uuids(dice: np.random.Generator, count: int) -> list[str]:
    """Random uuids (version 4) from the dice at hand."""
    octets = dice.integers(0, 256, (count, 16), dtype=np.uint8)
    octets[:, 6] = (octets[:, 6] & 0x0F) | 0x40
    octets[:, 8] = (octets[:, 8] & 0x3F) | 0x80
    digits = octets.tobytes().hex()
    return [
        f"{digits[at : at + 8]}-{digits[at + 8 : at + 12]}-{digits[at + 12 : at + 16]}"
        f"-{digits[at + 16 : at + 20]}-{digits[at + 20 : at + 32]}"
        for at in range(0, 32 * count, 32)
    ]
