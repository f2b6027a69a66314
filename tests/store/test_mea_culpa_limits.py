from pathlib import Path

import pytest

from cook_jupyter.model.instance import StatusUpdate, TaskState
from cook_jupyter.model.job import JobState
from cook_jupyter.model.reason import AGENT_RESTARTED, LAUNCH_FAILED, MeaCulpaLimits
from cook_jupyter.store.base import Store
from cook_jupyter.store.memory import MemoryStore
from cook_jupyter.store.sqlite import SqliteStore
from tests.builders import a_job_spec, an_instance

ONE_RESTART = MeaCulpaLimits(default=0, by_reason={AGENT_RESTARTED: 1})


@pytest.mark.parametrize("implementation", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("reason", "states"),
    [
        (AGENT_RESTARTED, [JobState.WAITING, JobState.COMPLETED]),  # free once
        (
            LAUNCH_FAILED,
            [JobState.WAITING] * 10 + [JobState.COMPLETED],
        ),  # ten times, by the table
        ("killed-externally", [JobState.COMPLETED]),  # by the default
    ],
)
async def test_mea_culpa_failures_are_free_up_to_the_configured_limit(
    implementation: str, reason: str, states: list[JobState], tmp_path: Path
) -> None:
    store: Store = (
        MemoryStore(free=ONE_RESTART)
        if implementation == "memory"
        else SqliteStore(tmp_path / "store.db", free=ONE_RESTART)
    )
    await store.open()
    spec = a_job_spec(max_retries=1)
    await store.submit([spec], now_ms=1)
    observed = []
    for attempt in range(len(states)):
        instance = an_instance(job_id=spec.job_id, instance_id=f"00000000-0000-4000-8000-{attempt:012}")
        await store.launch([instance])
        lost = StatusUpdate(
            instance_id=instance.instance_id, state=TaskState.LOST, at_ms=2 + attempt, reason=reason
        )
        await store.report([lost])
        (job,) = await store.jobs([spec.job_id])
        assert job is not None
        observed.append(job.state)
    await store.close()
    assert observed == states
