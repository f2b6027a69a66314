"""What a report says of runs, and that its page stands by itself."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright

from cook_jupyter.simulation.charts import Axis, Band, Line, bands, cells, lines
from cook_jupyter.simulation.comparison import Run, RunFigures, figures_of
from cook_jupyter.simulation.report import write_report
from cook_jupyter.simulation.summary import as_json, as_text, headline, in_words, price
from cook_jupyter.simulation.traces import RunRow, SimHost, TraceJob
from tests.conftest import missing_part
from tests.simulation.test_measures import a_row, preempted

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
HOSTS = [SimHost("host-1", cpus=4.0, mem_mb=8000.0)]
SHARES = {"default": {"cpus": 2.0, "mem": 4000.0}}


def a_run(rows: list[RunRow], **changes: Any) -> Run:
    known: dict[str, Any] = {"hosts": HOSTS, "shares": SHARES, "cycle_ms": MINUTE_MS}
    return Run(rows=rows, **(known | changes))


def a_job(job_id: str, user: str, submit_ms: int = 0, **changes: Any) -> TraceJob:
    return TraceJob(job_id, user, submit_ms, HOUR_MS, 2.0, 1000.0, **changes)


def ada_holds_all_until_bob_gets_half() -> list[RunRow]:
    """Bob comes at 1 h; at 3 h one of Ada's two jobs makes room for his."""
    h = HOUR_MS
    return [
        a_row("a1", "ada", start_time_ms=0, end_time_ms=6 * h, cpus=2.0),
        preempted("a2", "ada", start_time_ms=0, end_time_ms=3 * h, cpus=2.0),
        a_row("b1", "bob", submit_time_ms=h, start_time_ms=3 * h, end_time_ms=5 * h, cpus=2.0),
        a_row("a2", "ada", start_time_ms=5 * h, end_time_ms=9 * h, cpus=2.0),
    ]


def figures(rows: list[RunRow], name: str = "fair", **changes: Any) -> RunFigures:
    return figures_of(name, a_run(rows, **changes))


# --- figures


def test_how_a_user_fared_is_told_user_by_user() -> None:
    ada, bob = figures(ada_holds_all_until_bob_gets_half()).users

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


def test_who_waits_below_the_share_is_starved_and_who_waits_at_it_is_hungry() -> None:
    ada, bob = figures(ada_holds_all_until_bob_gets_half()).users

    assert (bob.starved_hours, bob.hungry_hours, bob.satisfied_hours) == pytest.approx((2.0, 0.0, 2.0))
    # Ada's preempted job waits from 3 h to 5 h while the other one holds her share.
    assert (ada.starved_hours, ada.hungry_hours, ada.satisfied_hours) == pytest.approx((0.0, 2.0, 7.0))


def test_usage_stands_against_a_fair_division_of_all_hosts() -> None:
    line = figures(ada_holds_all_until_bob_gets_half()).timeline
    at_two, at_four, at_eight = (int(np.searchsorted(line.ticks_ms, hours * HOUR_MS)) for hours in (2, 4, 8))

    assert (line.usage[at_two].tolist(), line.fair[at_two].tolist()) == ([2.0, 0.0], [1.0, 1.0])
    assert (line.usage[at_four].tolist(), line.fair[at_four].tolist()) == ([1.0, 1.0], [1.0, 1.0])
    assert (line.usage[at_eight].tolist(), line.fair[at_eight].tolist()) == ([1.0, 0.0], [1.0, 0.0])


def test_a_held_back_user_is_below_what_is_fair_though_hosts_are_idle() -> None:
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


def test_a_job_that_waits_again_at_the_end_has_not_failed_and_one_out_of_attempts_has() -> None:
    rows = [preempted("a1", "ada", end_time_ms=HOUR_MS), a_row("b1", "bob", end_time_ms=3 * HOUR_MS)]
    trace = [a_job("a1", "ada"), a_job("b1", "bob")]

    waits = figures(rows, trace=trace)
    failed = figures(rows, trace=trace, mea_culpa_limit=0)

    assert (waits.failed, failed.failed) == (0, 1)
    assert waits.users[0].starved_hours == pytest.approx(2.0)
    assert failed.users[0].starved_hours == 0.0


@given(st.permutations(ada_holds_all_until_bob_gets_half()))
def test_the_order_of_rows_changes_nothing_a_report_says(rows: list[RunRow]) -> None:
    assert as_text([figures(rows)]) == as_text([figures(ada_holds_all_until_bob_gets_half())])


# --- words


@pytest.mark.parametrize(
    ("ms", "words"),
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
    ],
)
def test_a_span_of_time_is_told_as_one_says_it(ms: float, words: str) -> None:
    assert in_words(ms) == words


def two_runs() -> dict[str, Run]:
    late = [
        a_row(job, user, start_time_ms=2 * HOUR_MS, end_time_ms=3 * HOUR_MS) for job, user in ("aa", "bb")
    ]
    return {"fifo": a_run(late), "fair": a_run(ada_holds_all_until_bob_gets_half())}


def test_the_headline_begins_with_the_run_whose_jobs_wait_least() -> None:
    both = [figures_of(name, run) for name, run in two_runs().items()]

    assert headline(both) == "Half of all jobs start at once under fair; within 2.0 h under fifo."
    assert price(both) == "Of all cpu hours, preemption threw away 20.0 % under fair."
    assert price(both[:1]) == ""


def test_runs_whose_jobs_wait_the_same_are_named_together() -> None:
    late, early = (figures_of(name, run) for name, run in two_runs().items())
    same = figures_of("fair-better", two_runs()["fair"])

    assert headline([early, late, same]) == (
        "Half of all jobs start at once under fair and fair-better; within 2.0 h under fifo."
    )
    assert headline([late]) == "Half of all jobs start within 2.0 h under fifo."


def test_the_text_has_a_column_for_each_run() -> None:
    text = as_text([figures_of(name, run) for name, run in two_runs().items()])

    assert re.search(r"^ +fifo +fair$", text, re.MULTILINE)
    assert re.search(r"^half of all jobs start within +2\.0 h +at once$", text, re.MULTILINE)


def test_the_json_is_json_and_knows_no_nan() -> None:
    told = json.loads(json.dumps(as_json([figures([a_row(status="running")])]), allow_nan=False))

    [run] = told["runs"]
    assert run["turnaround_ms"] is None
    assert run["wait_ms"] == {"median": 0.0, "p95": 0.0, "longest": 0.0}
    assert run["users"][0]["user"] == "ada"
    assert run["measures"]["tasks_run"] == 1


# --- the page


class _Page(HTMLParser):
    """Open tags, and all text."""

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


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = page_of(two_runs(), tmp_path)

    assert page.open == []
    assert page.seen.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert "http" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "url(" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_shows_every_run_and_every_user(tmp_path: Path) -> None:
    page = page_of(two_runs(), tmp_path)

    for word in ("fifo", "fair", "ada", "bob", "2.0 h", "20.0 %"):
        assert word in page.text


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
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
def test_a_run_with_hardly_anything_in_it_can_be_reported(rows: list[RunRow], tmp_path: Path) -> None:
    assert page_of({"fair": a_run(rows)}, tmp_path).open == []


def test_a_report_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        write_report({}, tmp_path)


# --- charts


def paths(chart: str, css: str) -> list[str]:
    return re.findall(rf'<path class="[^"]*{css}[^"]*" d="([^"]*)"', chart)


UNIT = Axis(low=0.0, high=1.0)


def test_a_line_holds_each_value_until_the_next() -> None:
    [drawn] = paths(
        lines([Line("a", "run-0", np.array([0, 0.5, 1]), np.array([0, 1, 0.5]))], UNIT, UNIT), "run-0"
    )

    assert drawn == "M0.0 100.00H500.0V0.00H1000.0V50.00"


def test_bands_lie_one_upon_the_other() -> None:
    stack = [Band("low", "one", np.array([0.2, 0.2])), Band("high", "two", np.array([0.3, 0.8]))]
    chart = bands(stack, np.array([0.0, 0.5]), UNIT, UNIT)

    assert paths(chart, "one") == ["M0.0 80.00H500.0V80.00L500.0 100.00V100.00L0.0 100.00Z"]
    assert paths(chart, "two") == ["M0.0 50.00H500.0V0.00L500.0 80.00V80.00L0.0 80.00Z"]


def test_cells_of_one_kind_in_a_row_are_drawn_as_one() -> None:
    kinds = np.array([[0, 0, 1], [-1, 1, -1]])
    chart = cells(kinds, ["ada", "bob"], np.array([0.0, 0.2, 0.6]), UNIT)

    assert paths(chart, "kind-0") == ["M0.0 0.00H600.0v50.00H0.0Z"]
    assert paths(chart, "kind-1") == ["M600.0 0.00H1000.0v50.00H600.0ZM200.0 50.00H600.0v50.00H200.0Z"]


def test_equal_ratios_take_equal_room_on_a_logarithmic_axis() -> None:
    axis = Axis(low=1.0, high=100.0, log=True)

    assert axis.place([0.0, 1.0, 10.0, 100.0, 1000.0]).tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_a_browser_shows_the_page_without_asking_for_anything_and_without_scrolling_sideways(
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
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(page_file.as_uri())

        assert page.get_by_role("heading", level=1).is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.clientHeight > 10)")
        assert (asked, said) == ([page_file.as_uri()], [])
        browser.close()
