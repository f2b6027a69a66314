"""Random queues, limits and hosts. Amounts are few and small, so that scores and fitnesses tie often."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from cook_jupyter.model.limits import Quota, Share, UserLimits
from cook_jupyter.model.offer import Offer
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.resources import Resources

on_snapshots = settings(max_examples=60)

USERS = ("ada", "bob", "cyd", "dan")
Task = dict[str, Any]


@st.composite
def task_lists(draw: st.DrawFn, max_size: int = 20, *, waiting_only: bool = False) -> list[Task]:
    """Tasks with seqs of their own, running ones with starts that tie now and then."""
    tasks: list[Task] = []
    for seq in range(1, draw(st.integers(0, max_size)) + 1):
        task: Task = {
            "seq": seq,
            "user": draw(st.sampled_from(USERS)),
            "cpus": draw(st.sampled_from([0.1, 0.5, 1.0, 1.0, 2.0, 3.0])),
            "mem": draw(st.sampled_from([0.0, 10.0, 10.0, 20.0, 35.5])),
            "gpus": draw(st.sampled_from([0.0, 0.0, 0.0, 1.0])),
            "priority": draw(st.sampled_from([50, 50, 50, 50, 20, 70])),
        }
        if not waiting_only and draw(st.booleans()):
            task |= {"start_ms": draw(st.integers(1, 4)), "task_seq": seq % 3}
        tasks.append(task)
    return tasks


def shares() -> st.SearchStrategy[Share]:
    """Shares, of which many are the same."""
    return st.builds(
        Share,
        cpus=st.sampled_from([1.0, 2.0, 2.0, 10.0]),
        mem_mb=st.sampled_from([10.0, 20.0, 20.0, 100.0]),
        gpus=st.sampled_from([1.0, 1.0, 2.0]),
    )


def quotas() -> st.SearchStrategy[Quota]:
    """Quotas, most of which limit something."""
    return st.one_of(
        st.just(Quota()),
        st.builds(Quota, count=st.integers(0, 8)),
        st.builds(Quota, cpus=st.sampled_from([0.0, 1.0, 5.0]), mem_mb=st.sampled_from([30.0, 100.0, 1e9])),
        st.builds(Quota, gpus=st.integers(0, 2).map(float)),
    )


def user_limits() -> st.SearchStrategy[UserLimits]:
    """Shares and quotas: none, one for all, or some of one's own."""
    return st.builds(
        UserLimits,
        shares=st.dictionaries(st.sampled_from(USERS), shares(), max_size=2),
        quotas=st.dictionaries(st.sampled_from(USERS), quotas(), max_size=2),
        default_share=st.one_of(st.just(Share()), shares()),
        default_quota=quotas(),
    )


@st.composite
def offer_lists(draw: st.DrawFn, max_size: int = 24) -> list[Offer]:
    """Offers of hosts of a few sizes, some in use."""
    return [
        Offer(
            host=f"host-{number:02}",
            cluster=draw(st.sampled_from(["east", "west"])),
            pool=PoolName("pool"),
            room=Resources(
                cpus=draw(st.sampled_from([0.0, 1.0, 2.0, 4.0])),
                mem_mb=draw(st.sampled_from([10.0, 40.0, 100.0])),
                gpus=draw(st.sampled_from([0.0, 0.0, 1.0])),
            ),
            running=Resources(
                cpus=draw(st.sampled_from([0.0, 1.0])), mem_mb=draw(st.sampled_from([0.0, 50.0]))
            ),
        )
        for number in draw(st.permutations(range(draw(st.integers(0, max_size)))))
    ]
