"""Draw how instances and jobs live, out of the code that decides it, into docs/reference/lifecycle.md.

python scripts/draw_lifecycle.py           writes the page
python scripts/draw_lifecycle.py --check   says whether the page still agrees (tests/model does the same)
"""

import sys
from collections.abc import Callable
from pathlib import Path

from cook_jupyter.model import lifecycle
from cook_jupyter.model.instance import Instance, InstanceId, InstanceStatus, StatusUpdate, TaskState
from cook_jupyter.model.job import Job, JobId, JobSpec, JobState
from cook_jupyter.model.pool import PoolName
from cook_jupyter.model.reason import PREEMPTED

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "lifecycle.md"


def main(arguments: list[str]) -> int:
    """Return the exit code: 1 if the page was to be checked and differs."""
    drawn = page()
    if "--check" in arguments:
        same = PAGE.exists() and PAGE.read_text() == drawn
        print("lifecycle.md agrees" if same else "lifecycle.md differs: run scripts/draw_lifecycle.py")
        return 0 if same else 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(drawn)
    return 0


def page() -> str:
    """The whole page."""
    return f"""# How jobs and instances live

Drawn by `scripts/draw_lifecycle.py` from `cook_jupyter/model/lifecycle.py`: change the code, then draw again.

## An instance

One attempt at a job. An illegal step is ignored; success and failed are final.

```mermaid
{_diagram(instance_steps())}
```

## A job

A job has at most one open instance. A completed job succeeded if any of its instances did.

```mermaid
{_diagram(job_steps())}
```

Attempts are what finished instances used up, grouped by reason. A failure that is the system's fault
(*mea culpa*) uses up none until its reason's free limit for this job is reached.
"""


def instance_steps() -> list[tuple[str, str, str]]:
    """From, event, to: what clusters may report, as the table allows it."""
    steps = [("[*]", "launch", InstanceStatus.UNKNOWN.value)]
    for now, allowed in lifecycle.STEPS.items():
        if not allowed:
            steps.append((now.value, "", "[*]"))
        for then in InstanceStatus:
            if then in allowed:
                told = [
                    state.value for state, status in lifecycle.STATUS_OF_TASK_STATE.items() if status is then
                ]
                steps.append((now.value, ", ".join(told), then.value))
    return steps


def job_steps() -> list[tuple[str, str, str]]:
    """From, event, to: every event tried on a job in every state."""
    waiting = _job(max_retries=2)
    running = lifecycle.launch(waiting, _instance())
    last = lifecycle.launch(_job(max_retries=1), _instance())
    done = _report(last, TaskState.FAILED)
    events: list[tuple[str, Job, Callable[[Job], Job]]] = [
        ("launch", waiting, lambda job: lifecycle.launch(job, _instance())),
        ("kill", waiting, lifecycle.kill),
        ("finished", running, lambda job: _report(job, TaskState.FINISHED)),
        ("failed, attempts left", running, lambda job: _report(job, TaskState.FAILED)),
        (
            "failed by the system's fault",
            last,
            lambda job: lifecycle.fail(job, InstanceId("i"), reason=PREEMPTED, at_ms=2, preempted=True),
        ),
        ("failed, attempts used up", last, lambda job: _report(job, TaskState.FAILED)),
        ("kill", running, lifecycle.kill),
        ("retry", done, lambda job: lifecycle.retry(job, 2, at_ms=3)),
        ("retry, its task is still being killed", lifecycle.kill(running), _retried),
    ]
    steps = [("[*]", "submit", JobState.WAITING.value)]
    steps += [(before.state.value, name, event(before).state.value) for name, before, event in events]
    return steps


def _retried(job: Job) -> Job:
    return lifecycle.retry(job, 3, at_ms=3)


def _diagram(steps: list[tuple[str, str, str]]) -> str:
    joined: dict[tuple[str, str], list[str]] = {}
    for now, event, then in steps:
        joined.setdefault((now, then), []).append(event)
    lines = ["stateDiagram-v2"]
    for (now, then), events in joined.items():
        label = "<br/>".join(event for event in events if event)
        lines.append(f"    {now} --> {then}" + (f": {label}" if label else ""))
    return "\n".join(lines)


def _job(*, max_retries: int) -> Job:
    spec = JobSpec(
        job_id=JobId("j"),
        user="ada",
        command="true",
        pool=PoolName("p"),
        cpus=1,
        mem_mb=1,
        max_retries=max_retries,
    )
    return Job(
        spec=spec,
        seq=1,
        state=JobState.WAITING,
        submitted_ms=0,
        last_waiting_ms=0,
        max_retries=max_retries,
    )


def _instance() -> Instance:
    return Instance(
        instance_id=InstanceId("i"),
        job_id=JobId("j"),
        status=InstanceStatus.UNKNOWN,
        host="h",
        cluster="c",
        started_ms=1,
    )


def _report(job: Job, state: TaskState) -> Job:
    reported = lifecycle.report(job, StatusUpdate(instance_id=InstanceId("i"), state=state, at_ms=2))
    return reported.job or job


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
