"""The figures and texts of a report, and its self-contained page."""

import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright

from cook_jupyter.model.instance import TaskState
from cook_jupyter.model.job import JobId
from cook_jupyter.simulation.charts import Axis, Band, Line, draw_bands, draw_cells, draw_lines
from cook_jupyter.simulation.comparison import Run, RunFigures, compute_figures
from cook_jupyter.simulation.config import COOK_JOBS, SimConfig
from cook_jupyter.simulation.replay import simulate
from cook_jupyter.simulation.report import write_report
from cook_jupyter.simulation.summary import (
    format_count,
    format_duration,
    format_number,
    headline,
    notes,
    price,
    render_text,
    to_json,
)
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob
from tests.conftest import missing_part
from tests.simulation.test_measures import PREEMPTED, a_row, preempted

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
HOSTS = [SimHost("host-1", cpus=4.0, mem_mb=8000.0)]
SHARES = {"default": {"cpus": 2.0, "mem": 4000.0}}


def a_run(rows: list[RunRow], **changes: Any) -> Run:
    defaults: dict[str, Any] = {"hosts": HOSTS, "shares": SHARES, "cycle_ms": MINUTE_MS}
    return Run(rows=rows, **(defaults | changes))


def a_job(job_id: str, user: str, submit_ms: int = 0, **changes: Any) -> TraceJob:
    return TraceJob(JobId(job_id), user, submit_ms, HOUR_MS, 2.0, 1000.0, **changes)


def ada_uses_everything_until_bob_gets_half() -> list[RunRow]:
    """Bob submits at 1 h; at 3 h one of Ada's two jobs is preempted for his job."""
    h = HOUR_MS
    return [
        a_row("a1", "ada", start_time_ms=0, end_time_ms=6 * h, cpus=2.0),
        preempted("a2", "ada", start_time_ms=0, end_time_ms=3 * h, cpus=2.0),
        a_row("b1", "bob", submit_time_ms=h, start_time_ms=3 * h, end_time_ms=5 * h, cpus=2.0),
        a_row("a2", "ada", start_time_ms=5 * h, end_time_ms=9 * h, cpus=2.0),
    ]


def figures(rows: list[RunRow], name: str = "fair", **changes: Any) -> RunFigures:
    return compute_figures(name, a_run(rows, **changes))


# --- figures


def test_the_report_has_figures_of_each_user() -> None:
    ada, bob = figures(ada_uses_everything_until_bob_gets_half()).users

    assert (ada.user, ada.jobs, ada.preemptions, ada.cpu_hours, ada.lost_cpu_hours) == (
        "ada",
        2,
        1,
        26.0,
        6.0,
    )
    assert (bob.user, bob.jobs, bob.preemptions, bob.cpu_hours, bob.lost_cpu_hours) == ("bob", 1, 0, 4.0, 0.0)
    assert bob.wait_ms == (2 * HOUR_MS,) * 3
    assert bob.turnaround_ms == 4 * HOUR_MS
    assert ada.turnaround_ms == 7.5 * HOUR_MS


def test_a_user_who_waits_below_the_share_is_starved_and_at_the_share_hungry() -> None:
    ada, bob = figures(ada_uses_everything_until_bob_gets_half()).users

    assert (bob.starved_hours, bob.hungry_hours, bob.satisfied_hours) == pytest.approx((2.0, 0.0, 2.0))
    # Ada's preempted job waits from 3 h to 5 h while the other one uses her share.
    assert (ada.starved_hours, ada.hungry_hours, ada.satisfied_hours) == pytest.approx((0.0, 2.0, 7.0))


def test_usage_is_compared_with_a_fair_division_of_all_hosts() -> None:
    line = figures(ada_uses_everything_until_bob_gets_half()).timeline
    at_two, at_four, at_eight = (int(np.searchsorted(line.ticks_ms, hours * HOUR_MS)) for hours in (2, 4, 8))

    assert (line.usage[at_two].tolist(), line.fair[at_two].tolist()) == ([2.0, 0.0], [1.0, 1.0])
    assert (line.usage[at_four].tolist(), line.fair[at_four].tolist()) == ([1.0, 1.0], [1.0, 1.0])
    assert (line.usage[at_eight].tolist(), line.fair[at_eight].tolist()) == ([1.0, 0.0], [1.0, 0.0])


def test_a_user_who_waits_is_below_the_fair_usage_although_hosts_are_idle() -> None:
    rows = [
        a_row("a1", "ada", end_time_ms=HOUR_MS, cpus=1.0),
        a_row("a2", "ada", start_time_ms=HOUR_MS, end_time_ms=2 * HOUR_MS, cpus=1.0),
    ]
    line = figures(rows).timeline

    assert (line.usage[5].tolist(), line.fair[5].tolist()) == ([0.5], [1.0])
    assert figures(rows).busy_while_waiting == pytest.approx(0.25)


def test_a_job_that_never_started_waits_to_the_end() -> None:
    trace = [a_job("a1", "ada"), a_job("b1", "bob", HOUR_MS), a_job("c1", "cyd", HOUR_MS)]
    done = figures([a_row("a1", "ada", end_time_ms=4 * HOUR_MS, cpus=4.0)], trace=trace)

    assert [user.never_started for user in done.users] == [0, 1, 1]
    assert done.never_started == 2
    assert done.wait_ms.longest == 3 * HOUR_MS
    assert done.users[1].starved_hours == pytest.approx(3.0)


def test_a_job_that_waits_again_at_the_end_has_not_failed_but_one_without_retries_has() -> None:
    rows = [preempted("a1", "ada", end_time_ms=HOUR_MS), a_row("b1", "bob", end_time_ms=3 * HOUR_MS)]
    trace = [a_job("a1", "ada"), a_job("b1", "bob")]

    waiting = figures(rows, trace=trace)
    failed = figures(rows, trace=trace, mea_culpa_limit=0)

    assert (waiting.failed, failed.failed) == (0, 1)
    assert waiting.users[0].starved_hours == pytest.approx(2.0)
    assert failed.users[0].starved_hours == 0.0


FAILED = "Command exited non-zero"
LOST = "Mesos executor terminated"  # mea culpa: free three times


@pytest.mark.parametrize(
    ("reasons", "changes", "run_changes", "waits_for_retry"),
    [
        ([PREEMPTED], {}, {}, True),
        ([PREEMPTED], {"disable_mea_culpa_retries": True}, {}, False),
        ([PREEMPTED], {"disable_mea_culpa_retries": True, "max_retries": 2}, {}, True),
        ([PREEMPTED] * 5, {}, {}, True),
        ([PREEMPTED] * 6, {}, {}, False),
        ([PREEMPTED] * 6, {"max_retries": 2}, {}, True),
        ([PREEMPTED] * 6, {}, {"mea_culpa_limits": {"preempted-by-rebalancer": -1}}, True),
        ([PREEMPTED], {}, {"mea_culpa_limits": {"preempted-by-rebalancer": 0}}, False),
        ([FAILED], {}, {}, False),
        ([FAILED], {"max_retries": 2}, {}, True),
        ([FAILED, PREEMPTED], {}, {}, False),
        ([PREEMPTED, FAILED], {"max_retries": 2}, {}, True),
        ([FAILED, PREEMPTED, FAILED], {"max_retries": 2}, {}, False),
        ([LOST] * 3, {}, {}, True),
        ([LOST] * 4, {}, {}, False),
        ([LOST] * 4, {}, {"mea_culpa_limits": {"mesos-executor-terminated": 4}}, True),
        ([PREEMPTED] * 5 + [LOST] * 3, {}, {}, True),
        (["a reason of another scheduler"], {}, {}, False),
        ([""], {}, {}, False),
    ],
    ids=str,
)
def test_a_job_waits_again_by_the_rules_of_the_scheduler(
    reasons: list[str], changes: dict[str, Any], run_changes: dict[str, Any], waits_for_retry: bool
) -> None:
    m = MINUTE_MS
    rows = [
        a_row("a1", "ada", start_time_ms=n * m, end_time_ms=(n + 1) * m, status="failed", reason=reason)
        for n, reason in enumerate(reasons)
    ]
    last = a_row("b1", "bob", end_time_ms=10 * HOUR_MS)
    trace = [a_job("a1", "ada", **changes), a_job("b1", "bob")]

    result = figures([*rows, last], trace=trace, **run_changes)

    assert result.failed == (0 if waits_for_retry else 1)
    expected = 10.0 - len(reasons) / 60 if waits_for_retry else 0.0
    assert result.users[0].starved_hours == pytest.approx(expected, abs=1 / 60)


@pytest.mark.parametrize("kind", ["refused", "removed"])
def test_refused_and_removed_jobs_do_not_count_as_waiting(kind: str) -> None:
    trace = [a_job("a1", "ada"), a_job("b1", "bob")]
    rows = [a_row("a1", "ada", end_time_ms=HOUR_MS)]

    exclusion: dict[str, Any] = {kind: {"b1": "it is too large"}}
    result = figures(rows, trace=trace, **exclusion)

    assert (result.never_started, result.jobs, result.starved_hours) == (0, 1, 0.0)
    assert getattr(result, kind) == 1
    assert any("job b1: it is too large" in note for note in notes([result]))


def test_a_first_job_that_never_starts_waits_from_its_submission() -> None:
    trace = [a_job("a1", "ada", 5 * HOUR_MS), a_job("b1", "bob", 7 * HOUR_MS)]
    rows = [
        a_row("b1", "bob", submit_time_ms=7 * HOUR_MS, start_time_ms=7 * HOUR_MS, end_time_ms=8 * HOUR_MS)
    ]

    result = figures(rows, trace=trace)

    assert result.users[0].wait_ms.longest == 3 * HOUR_MS
    assert result.users[0].starved_hours == pytest.approx(3.0)
    assert result.end_ms == 3 * HOUR_MS
    assert result.measures.total_sim_time_ms == HOUR_MS


def test_a_run_in_which_no_job_starts_lasts_until_its_end() -> None:
    result = figures([], trace=[a_job("a1", "ada", 5 * HOUR_MS)], end_ms=7 * HOUR_MS)

    assert result.starved_hours == pytest.approx(2.0)
    assert result.wait_ms.longest == 2 * HOUR_MS
    assert math.isinf(result.wait_ms.median)
    assert math.isnan(result.end_ms)


def test_the_figures_count_the_jobs_that_wait_at_the_end_of_a_simulation() -> None:
    """Jobs that fail, are preempted and run out of attempts, in a real simulation."""
    trace = [
        TraceJob(
            JobId(f"j{number}"),
            f"user-{number % 3}",
            1000 * number,
            40_000,
            1.0,
            100.0,
            status=TaskState.FAILED if number % 4 == 0 else TaskState.FINISHED,
            max_retries=1 + number % 3,
            disable_mea_culpa_retries=number % 5 == 0,
        )
        for number in range(60)
    ]
    config = SimConfig(
        shares=SHARES,
        cycle_step_ms=10_000,
        rebalance_ms=10_000,
        jobs=replace(COOK_JOBS, mea_culpa_limits={"preempted-by-rebalancer": 1}),
    )
    hosts = [SimHost(f"h{number}", 3.0, 1000.0) for number in range(3)]
    outcome = simulate(trace, hosts, config)

    run = Run.of(outcome, trace, hosts, config)
    waits_for_retry = sum(
        1 for number in range(60) if _waits_at_the_end(run, JobId(f"j{number}"), trace[number].max_retries)
    )
    result = compute_figures("fair", run)

    assert outcome.waiting > 0
    assert result.never_started + waits_for_retry == outcome.waiting
    finished = {row.job_id for row in outcome.rows if row.status in ("success", "running")}
    started = {row.job_id for row in outcome.rows}
    assert result.failed == len(started) - len(finished) - waits_for_retry


def _waits_at_the_end(run: Run, job_id: JobId, max_retries: int) -> bool:
    rows = [row for row in run.rows if row.job_id == job_id]
    if not rows or any(row.status in ("success", "running") for row in rows):
        return False
    used = 0
    free = 0 if int(job_id[1:]) % 5 == 0 else 1
    preemptions = sum(row.reason == PREEMPTED for row in rows)
    used = len(rows) - preemptions + max(0, preemptions - free)
    return used < max_retries


@given(st.permutations(ada_uses_everything_until_bob_gets_half()))
def test_the_order_of_rows_does_not_change_a_report(rows: list[RunRow]) -> None:
    assert render_text([figures(rows)]) == render_text([figures(ada_uses_everything_until_bob_gets_half())])


# --- texts


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "at once"),
        (999, "at once"),
        (1000, "1 s"),
        (59_600, "60 s"),
        (90_000, "1.5 min"),
        (12 * MINUTE_MS, "12 min"),
        (90 * MINUTE_MS, "1.5 h"),
        (47 * HOUR_MS, "47 h"),
        (60 * HOUR_MS, "2.5 d"),
        (math.nan, "–"),
        (math.inf, "never"),
    ],
)
def test_a_duration_is_formatted_in_a_suitable_unit(ms: float, text: str) -> None:
    assert format_duration(ms) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "job", "0 jobs"),
        (1, "job", "1 job"),
        (1.0, "cpu", "1 cpu"),
        (0.5, "cpu", "0.5 cpus"),
        (1234, "job", "1,234 jobs"),
    ],
)
def test_a_noun_is_plural_except_after_one(number: float, noun: str, text: str) -> None:
    assert format_count(number, noun) == text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [(1234.56, 1, "1,234.6"), (0.0, 0, "0"), (math.nan, 2, "–"), (math.inf, 0, "–")],
)
def test_a_number_that_is_not_finite_is_a_dash(value: float, decimals: int, text: str) -> None:
    assert format_number(value, decimals) == text


def _runs_of_every_kind() -> dict[str, Run]:
    """Return runs for edge cases: no job, one job, all failed, none started, one user, all refused."""
    single = [a_row(end_time_ms=HOUR_MS)]
    failed = [a_row(job, job, status="failed", reason=FAILED, end_time_ms=HOUR_MS) for job in "ab"]
    partial = [a_row("j0", "ada", end_time_ms=HOUR_MS)]
    five = [a_job(f"j{number}", "ada") for number in range(5)]
    return {
        "empty": a_run([]),
        "one": a_run(single, trace=[a_job("a", "ada")]),
        "failed": a_run(failed, trace=[a_job("a", "a"), a_job("b", "b")]),
        "stuck": a_run([], trace=five, end_ms=HOUR_MS),
        "some": a_run(partial, trace=five, end_ms=2 * HOUR_MS),
        "refused": a_run([], trace=[a_job("a", "ada")], refused={"a": "too large"}, end_ms=HOUR_MS),
        "instant": a_run([a_row(end_time_ms=0)]),
    }


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("empty", "No job was accepted under empty."),
        ("one", "Half of all jobs start at once under one."),
        ("failed", "Half of all jobs start at once under failed."),
        ("stuck", "No job starts under stuck."),
        ("some", "Only 1 of 5 jobs starts under some."),
        ("refused", "No job was accepted under refused."),
        ("instant", "Half of all jobs start at once under instant."),
    ],
)
def test_the_headline_is_correct_in_special_cases(name: str, sentence: str) -> None:
    assert headline([compute_figures(name, _runs_of_every_kind()[name])]) == sentence


def test_runs_of_every_kind_fit_in_one_headline() -> None:
    figures_of_all = [compute_figures(name, run) for name, run in _runs_of_every_kind().items()]

    sentence = headline(figures_of_all)

    assert sentence.startswith("Half of all jobs start at once under one, failed and instant.")
    assert "No job starts under stuck." in sentence


@pytest.mark.parametrize("name", [*_runs_of_every_kind(), "all"])
def test_no_report_has_nan_infinity_or_1_jobs(name: str, tmp_path: Path) -> None:
    runs = _runs_of_every_kind()
    chosen = runs if name == "all" else {name: runs[name]}
    page = page_of(chosen, tmp_path)

    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert page.open == []
    assert set(report) == {"headline", "price", "notes", "runs"}
    for text in (page.text, (tmp_path / "report.txt").read_text()):
        assert not re.search(r"\b(nan|inf|infinity)\b", text, re.IGNORECASE)
        assert not re.search(r"\b1 (jobs|users|hosts|rows)\b", text)


def test_a_run_without_hosts_is_refused() -> None:
    with pytest.raises(ValueError, match="has no hosts"):
        figures([], hosts=[])


def two_runs() -> dict[str, Run]:
    late = [
        a_row(job, user, start_time_ms=2 * HOUR_MS, end_time_ms=3 * HOUR_MS) for job, user in ("aa", "bb")
    ]
    return {"fifo": a_run(late), "fair": a_run(ada_uses_everything_until_bob_gets_half())}


def test_the_headline_begins_with_the_run_whose_jobs_wait_least() -> None:
    figures_of_both = [compute_figures(name, run) for name, run in two_runs().items()]

    assert headline(figures_of_both) == "Half of all jobs start at once under fair; within 2.0 h under fifo."
    assert price(figures_of_both) == "Of all cpu hours, 20.0 % under fair were lost to preemption."
    assert price(figures_of_both[:1]) == ""


def test_runs_whose_jobs_wait_equally_long_are_named_together() -> None:
    late, early = (compute_figures(name, run) for name, run in two_runs().items())
    same = compute_figures("fair-better", two_runs()["fair"])

    assert headline([early, late, same]) == (
        "Half of all jobs start at once under fair and fair-better; within 2.0 h under fifo."
    )
    assert headline([late]) == "Half of all jobs start within 2.0 h under fifo."


def test_the_text_has_a_column_for_each_run() -> None:
    text = render_text([compute_figures(name, run) for name, run in two_runs().items()])

    assert re.search(r"^ +fifo +fair$", text, re.MULTILINE)
    assert re.search(r"^half of all jobs start within +2\.0 h +at once$", text, re.MULTILINE)


def test_the_json_is_valid_and_has_no_nan() -> None:
    report = json.loads(json.dumps(to_json([figures([a_row(status="running")])]), allow_nan=False))

    [run] = report["runs"]
    assert run["turnaround_ms"] is None
    assert run["wait_ms"] == {"median": 0.0, "p95": 0.0, "longest": 0.0}
    assert run["users"][0]["user"] == "ada"
    assert run["measures"]["tasks_run"] == 1


# --- the page


class _Page(HTMLParser):
    """Collects the tags that are open, all tags, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in {"meta", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(runs: dict[str, Run], folder: Path) -> _Page:
    page = _Page()
    page.feed(write_report(runs, folder).read_text(encoding="utf-8"))
    page.close()
    return page


def test_a_report_is_a_page_a_text_and_json(tmp_path: Path) -> None:
    page = write_report(two_runs(), tmp_path / "new" / "folder")

    assert page == tmp_path / "new" / "folder" / "report.html"
    assert "at once under fair" in page.with_suffix(".txt").read_text(encoding="utf-8")
    assert len(json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["runs"]) == 2


def test_the_page_is_complete_and_loads_nothing(tmp_path: Path) -> None:
    page = page_of(two_runs(), tmp_path)

    assert page.open == []
    assert page.seen.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert "http" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "url(" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_every_run_and_every_user(tmp_path: Path) -> None:
    page = page_of(two_runs(), tmp_path)

    for word in ("fifo", "fair", "ada", "bob", "2.0 h", "20.0 %"):
        assert word in page.text


def test_names_are_escaped(tmp_path: Path) -> None:
    page = page_of({"<script>run</script>": a_run([a_row(user="<b>ada</b>")])}, tmp_path)

    assert "script" not in page.seen
    assert "<b>ada</b>" in page.text


def test_many_users_are_shown_in_part_and_listed_in_full(tmp_path: Path) -> None:
    rows = [a_row(f"job-{n}", f"user-{n:03}", start_time_ms=n, end_time_ms=n + HOUR_MS) for n in range(70)]
    page = page_of({"fair": a_run(rows)}, tmp_path)

    assert "24 of 70 users" in page.text
    assert page.text.count("user-001") == 1
    assert all(f"user-{n:03}" in page.text for n in range(70))


@pytest.mark.parametrize("rows", [[], [a_row(end_time_ms=1)]], ids=["no rows", "one row"])
def test_a_run_with_at_most_one_row_can_be_reported(rows: list[RunRow], tmp_path: Path) -> None:
    assert page_of({"fair": a_run(rows)}, tmp_path).open == []


def test_a_report_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        write_report({}, tmp_path)


# --- charts


def paths(chart: str, css: str) -> list[str]:
    return re.findall(rf'<path class="[^"]*{css}[^"]*" d="([^"]*)"', chart)


UNIT = Axis(low=0.0, high=1.0)


def test_a_line_keeps_each_value_until_the_next() -> None:
    [drawn] = paths(
        draw_lines([Line("a", "run-0", np.array([0, 0.5, 1]), np.array([0, 1, 0.5]))], UNIT, UNIT), "run-0"
    )

    assert drawn == "M0.0 100.00H500.0V0.00H1000.0V50.00"


def test_bands_are_stacked() -> None:
    stack = [Band("low", "one", np.array([0.2, 0.2])), Band("high", "two", np.array([0.3, 0.8]))]
    chart = draw_bands(stack, np.array([0.0, 0.5]), UNIT, UNIT)

    assert paths(chart, "one") == ["M0.0 80.00H500.0V80.00L500.0 100.00V100.00L0.0 100.00Z"]
    assert paths(chart, "two") == ["M0.0 50.00H500.0V0.00L500.0 80.00V80.00L0.0 80.00Z"]


def test_adjacent_cells_of_one_kind_are_drawn_as_one() -> None:
    kinds = np.array([[0, 0, 1], [-1, 1, -1]])
    chart = draw_cells(kinds, ["ada", "bob"], np.array([0.0, 0.2, 0.6]), UNIT)

    assert paths(chart, "kind-0") == ["M0.0 0.00H600.0v50.00H0.0Z"]
    assert paths(chart, "kind-1") == ["M600.0 0.00H1000.0v50.00H600.0ZM200.0 50.00H600.0v50.00H200.0Z"]


def test_equal_ratios_have_equal_distances_on_a_logarithmic_axis() -> None:
    axis = Axis(low=1.0, high=100.0, log=True)

    assert axis.position([0.0, 1.0, 10.0, 100.0, 1000.0]).tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_a_browser_shows_the_page_without_further_requests_or_horizontal_scrolling(
    width: int, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        missing_part("no Chromium: apt-get install chromium")
    page_file = write_report(two_runs(), tmp_path)
    with sync_playwright() as drive:
        browser = drive.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": width, "height": 800})
        requests: list[str] = []
        messages: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.goto(page_file.as_uri())

        assert page.get_by_role("heading", level=1).is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.clientHeight > 10)")
        assert (requests, messages) == ([page_file.as_uri()], [])
        browser.close()
