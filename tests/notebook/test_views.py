"""How jobs look: words and shapes, text and HTML, without asking anybody."""

import re
from html.parser import HTMLParser
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from cook_jupyter.client.answers import (
    Capacity,
    JobAnswer,
    QuotaAnswer,
    ShareAnswer,
    SummaryAnswer,
    UsageAnswer,
    UserSummary,
)
from cook_jupyter.notebook.cell_run import restart_reason, state_line
from cook_jupyter.notebook.job_views import JobsView, JobView, how_it_ended
from cook_jupyter.notebook.rendering import MARKS
from cook_jupyter.notebook.views import SettingsView, StateView, UsageView, WhyView

NOW_MS = 1_760_000_000_000


def a_job(state: str = "waiting", **fields: Any) -> dict[str, Any]:
    status = "completed" if state in ("success", "failed") else state
    return {
        "uuid": str(uuid4()),
        "name": "sweep",
        "user": "ada",
        "command": "true",
        "state": state,
        "status": status,
        "cpus": 1.0,
        "mem": 512.0,
        "gpus": 0,
        "max_retries": 3,
        "submit_time": NOW_MS - 60_000,
        "instances": [],
        **fields,
    }


def an_instance(status: str = "running", **fields: Any) -> dict[str, Any]:
    return {
        "task_id": str(uuid4()),
        "status": status,
        "hostname": "a17",
        "start_time": NOW_MS - 50_000,
        "preempted": False,
        "progress": 0,
        **fields,
    }


def a_summary(**fields: Any) -> dict[str, Any]:
    return {
        "user": "ada",
        "waiting": 498,
        "running": 2,
        "users": [
            {
                "user": "ada",
                "waiting": 498,
                "running": 2,
                "cpus": 2.0,
                "mem": 1024.0,
                "dru": 2.0,
                "share_cpus": 1.0,
                "standing": "hungry",
            },
            {
                "user": "bob",
                "waiting": 0,
                "running": 0,
                "cpus": 0.0,
                "mem": 0.0,
                "dru": None,
                "share_cpus": None,
            },
        ],
        "capacity": {"cpus": 2.0, "mem": 7800.0, "gpus": 0, "hosts": 1},
        "used": {"cpus": 2.0, "mem": 1024.0},
        "pools": ["default"],
        **fields,
    }


def answer(fields: dict[str, Any]) -> JobAnswer:
    return msgspec.convert(fields, JobAnswer)


def a_view(state: str = "waiting", **fields: Any) -> JobView:
    return JobView(answer(a_job(state, **fields)), NOW_MS)


def summary_of(fields: dict[str, Any]) -> SummaryAnswer:
    return msgspec.convert(fields, SummaryAnswer)


def usage_view(
    usage: dict[str, Any],
    limits: dict[str, Any],
    quota: dict[str, Any],
    capacity: dict[str, Any] | None = None,
    **summary: Any,
) -> UsageView:
    return UsageView(
        user="ada",
        usage=msgspec.convert(usage, UsageAnswer),
        share=msgspec.convert(limits, ShareAnswer),
        quota=msgspec.convert(quota, QuotaAnswer),
        capacity=None if capacity is None else msgspec.convert(capacity, Capacity),
        summary=UserSummary(user="ada", **summary) if summary else None,
    )


class Checker(HTMLParser):
    """Complains about what an untrusted notebook strips and about tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "style", "link", "iframe")
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html_of(view: Any) -> str:
    text: str = view._repr_html_()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return text


def all_views() -> list[Any]:
    over = a_job(
        "failed", instances=[an_instance("failed", end_time=NOW_MS, reason_string="Command exited non-zero")]
    )
    running = a_job("running", instances=[an_instance()])
    jobs = JobsView.of([answer(running), answer(over), answer(a_job())], NOW_MS)
    return [
        jobs,
        jobs[0],
        JobsView.of([], NOW_MS, "None"),
        StateView(summary_of(a_summary()), "http://127.0.0.1:1", jobs),
        StateView(summary_of(a_summary(users=[])), "http://127.0.0.1:1", jobs[:0]),
        WhyView(jobs[2], ("You have 3 jobs ahead <of> this one.",)),
        usage_view(
            {"total_usage": {}, "pools": {"default": {"total_usage": {"cpus": 1.0, "mem": 5.0, "jobs": 1}}}},
            {"cpus": 1.0, "mem": 1.7976931348623157e308, "gpus": 0},
            {"cpus": 4.0, "mem": 10.0, "count": 2147483647},
            {"cpus": 8.0, "mem": 100.0},
        ),
        SettingsView((("cpus", "1.0", "default"),), "hint"),
    ]


@pytest.mark.parametrize("view", all_views(), ids=lambda view: type(view).__name__)
def test_every_view_reads_as_text_and_as_html(view: Any) -> None:
    assert repr(view).strip()
    assert html_of(view)


@pytest.mark.parametrize("view", all_views(), ids=lambda view: type(view).__name__)
def test_colours_come_from_the_theme_with_a_fallback(view: Any) -> None:
    for colour in re.findall(r"(?:color|background)\s*:\s*([^;\"]+)", html_of(view)):
        assert colour == "transparent" or re.fullmatch(r"var\(--jp-[\w-]+,[^)]+\)", colour), colour


@pytest.mark.parametrize("mark", MARKS.values(), ids=lambda mark: mark.word)
def test_a_state_is_a_shape_and_a_word_not_a_colour_alone(mark: Any) -> None:
    assert mark.word in mark.html
    assert mark.shape in mark.html
    assert len({each.shape for each in MARKS.values()}) == len(MARKS)


def test_what_users_write_is_shown_as_text() -> None:
    evil = "<script>alert(1)</script>"
    view = JobsView.of([answer(a_job(name=evil, command='"><img src=x onerror=1>'))], NOW_MS, evil)

    html_of(view)
    assert evil not in view._repr_html_()


def test_jobs_are_a_sequence() -> None:
    view = JobsView.of([answer(a_job(name=name)) for name in "abc"], NOW_MS)

    assert len(view) == 3
    assert view[0].name == "a"
    assert [job.name for job in view[1:]] == ["b", "c"]
    assert [job.name for job in view] == ["a", "b", "c"]


def test_a_preempted_job_waits_again_and_has_not_failed() -> None:
    ended = an_instance(
        "failed", preempted=True, end_time=NOW_MS - 5000, reason_string="Preempted by rebalancer"
    )
    job = a_view("waiting", instances=[ended])

    assert "waiting again" in repr(job)
    assert "preempted once" in repr(job)
    assert "failed" not in repr(job)


def preempted(**fields: Any) -> dict[str, Any]:
    return an_instance(
        "failed",
        preempted=True,
        reason_mea_culpa=True,
        reason_string="Preempted by rebalancer",
        start_time=NOW_MS - 50_000,
        end_time=NOW_MS - 5000,
        **fields,
    )


def test_preemption_is_told_once_and_as_no_attempt_of_the_jobs_own() -> None:
    waits = a_view("waiting", max_retries=1, instances=[preempted()])
    runs = a_view("running", max_retries=1, instances=[preempted(), an_instance(start_time=NOW_MS - 1000)])

    assert waits.note == "preempted once"
    assert runs.note == "preempted once"
    assert "attempt" not in repr(waits) + repr(runs)


def test_a_preempted_job_has_waited_before_and_after() -> None:
    job = a_view("waiting", instances=[preempted()])

    assert job.waited_s == 10 + 5


def test_a_job_that_was_killed_before_it_started_claims_no_waiting_time() -> None:
    cells = [cell.text for cell in a_view("failed").cells()]

    assert cells[JobsView.COLUMNS.index("waited")] == ""


def test_a_job_that_waits_again_tells_which_attempts_are_used() -> None:
    failed = an_instance("failed", end_time=NOW_MS - 1, reason_string="Command exited non-zero", exit_code=1)
    job = a_view("waiting", retries_remaining=2, instances=[preempted(), failed])

    assert job.note == "preempted once; command exited non-zero, exit code 1; 1 of 3 attempts used"


def test_the_end_of_a_preempted_job_tells_what_was_lost() -> None:
    instances = [preempted(), an_instance("success", start_time=NOW_MS - 4000, end_time=NOW_MS - 1000)]
    job = a_view("success", max_retries=1, retries_remaining=0, instances=instances)

    assert how_it_ended(job) == (
        "It succeeded on a17 after 3 s. It had been preempted once for jobs of users further below their "
        "share: 45 s of running were lost, but no retry."
    )


def test_the_line_of_a_preempted_cell_says_so_before_it_says_why_it_waits() -> None:
    job = a_view("waiting", instances=[preempted()])

    assert state_line(job, "No host takes it now.").text.endswith(
        "15 s · preempted once. No host takes it now."
    )


def test_output_that_begins_anew_is_explained() -> None:
    def second(before: dict[str, Any]) -> JobView:
        return a_view("running", instances=[before, an_instance(start_time=NOW_MS - 1000)])

    failed = an_instance("failed", end_time=NOW_MS - 2000, reason_string="Command exited non-zero")

    assert restart_reason(second(preempted())).startswith("preempted for a user further below their share")
    assert restart_reason(second(failed)) == "command exited non-zero; it restarts"


def test_who_asks_why_a_job_waits_sees_who_holds_the_machine() -> None:
    summary = a_summary()
    summary["users"][1] |= {"running": 1, "cpus": 3.0, "share_cpus": 1.7976931348623157e308}
    said = WhyView(a_view(), ("No host takes it now.",), summary_of(summary))

    assert "In use of 2 cpus: bob 3; ada (you) 2, share 1." in repr(said)
    assert "bob 3; ada (you) 2, share 1" in html_of(said)


def test_usage_tells_how_one_stands_and_how_fast_one_may_start() -> None:
    usage = {"total_usage": {"cpus": 3.0, "mem": 5.0, "jobs": 3}}
    quota = {"cpus": 4.0, "count": 8, "launch-rate-saved": 10.0, "launch-rate-per-minute": 30.0}

    text = repr(usage_view(usage, {"cpus": 2.0}, quota, standing="hungry", dru=1.5))

    assert "hungry" in text
    assert "DRU 1.50" in text
    assert "may be preempted" in text
    assert re.search(r"starts per minute\s+30\s+up to 10 saved", text)


def test_a_running_job_tells_how_long_where_and_how_far() -> None:
    job = a_view("running", instances=[an_instance(progress=40, progress_message="epoch 4")])

    for said in ("running for 50 s", "a17", "40 % epoch 4"):
        assert said in repr(job)


def test_a_failure_tells_reason_exit_code_and_attempts() -> None:
    instances = [
        an_instance(
            "failed",
            start_time=NOW_MS - 9000 * number,
            end_time=NOW_MS - 9000 * number + 2000,
            reason_code=99003,
            reason_string="Command exited non-zero",
            exit_code=3,
        )
        for number in (3, 2, 1)
    ]

    assert how_it_ended(a_view("failed", instances=instances)) == (
        "It failed (command exited non-zero, exit code 3) on a17 after 2 s at attempt 3 of 3."
    )


def test_a_killed_job_is_told_from_a_failed_one() -> None:
    never_ran = a_view("failed")
    killed = a_view("failed", instances=[an_instance("failed", end_time=NOW_MS, reason_code=1001)])

    assert never_ran.mark is MARKS["killed"]
    assert killed.mark is MARKS["killed"]
    assert how_it_ended(never_ran) == "It was killed before it had started."


def test_the_state_tells_who_is_over_the_share() -> None:
    text = repr(StateView(summary_of(a_summary()), "http://127.0.0.1:1", JobsView.of([], NOW_MS)))

    assert "2 of 2 cpus" in text
    assert re.search(r"ada \(you\)\s+2\s+498\s+2\s+1\s+2.00\s+hungry, over the share", text)
    assert "%%cook" in text  # the first step, for who has no jobs yet


def test_no_limit_is_said_so() -> None:
    usage = {"total_usage": {"cpus": 1.0, "mem": 5.0, "jobs": 1}}
    unlimited = {"cpus": 1.7976931348623157e308, "mem": 1.7976931348623157e308, "count": 2147483647}

    assert repr(usage_view(usage, unlimited, unlimited)).count("no limit") >= 4
