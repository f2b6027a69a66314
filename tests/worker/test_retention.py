"""Time on a host: what somebody does to the machine's clock makes nothing older, longer or earlier."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cook_jupyter.worker.retention import MAX_OFF_S, Reading, RetentionClock

DAY_S = 24 * 3600.0
BEGIN = Reading(1_000_000_000.0, 5_000.0, "boot 1")


class Clocks:
    """A machine whose clocks are moved by hand."""

    def __init__(self) -> None:
        self.now = BEGIN

    def read(self) -> Reading:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now = replace(self.now, wall_s=self.now.wall_s + seconds, uptime_s=self.now.uptime_s + seconds)

    def set_forward(self, seconds: float) -> None:
        self.now = replace(self.now, wall_s=self.now.wall_s + seconds)

    def boot(self, off_s: float) -> None:
        self.now = Reading(self.now.wall_s + off_s, 10.0, self.now.boot + "+")


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def retention(tmp_path: Path, clocks: Clocks) -> RetentionClock:
    return RetentionClock(tmp_path / "clock.json", clocks.read)


def test_a_file_grows_old_as_time_passes(retention: RetentionClock, clocks: Clocks) -> None:
    retention.advance()
    changed_s = clocks.now.wall_s
    for _ in range(10):
        clocks.wait(DAY_S)
        retention.advance()

    assert retention.age_s(changed_s) == 10 * DAY_S


def test_a_clock_set_ten_days_ahead_makes_no_file_older(
    retention: RetentionClock, clocks: Clocks, tmp_path: Path
) -> None:
    retention.advance()
    changed_s = clocks.now.wall_s
    clocks.wait(1800)
    clocks.set_forward(10 * DAY_S)
    clocks.wait(1800)
    retention.advance()
    later = RetentionClock(tmp_path / "clock.json", clocks.read)  # of the next agent
    later.advance()
    clocks.wait(DAY_S)

    assert later.age_s(changed_s) == pytest.approx(DAY_S + 3600)
    assert later.age_s(clocks.now.wall_s - 60) == pytest.approx(60)


def test_a_clock_set_ahead_while_no_agent_ran_makes_no_file_older(
    retention: RetentionClock, clocks: Clocks, tmp_path: Path
) -> None:
    retention.advance()
    changed_s = clocks.now.wall_s
    clocks.set_forward(10 * DAY_S)
    clocks.boot(off_s=60)

    later = RetentionClock(tmp_path / "clock.json", clocks.read)
    later.advance()

    assert later.age_s(changed_s) <= MAX_OFF_S + 60


def test_a_clock_set_back_keeps_files_longer(retention: RetentionClock, clocks: Clocks) -> None:
    retention.advance()
    changed_s = clocks.now.wall_s
    clocks.set_forward(-10 * DAY_S)
    retention.advance()

    assert retention.age_s(changed_s) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"last": [1], "jumps": []}'])
def test_a_damaged_note_is_as_good_as_none(tmp_path: Path, clocks: Clocks, content: bytes) -> None:
    (tmp_path / "clock.json").write_bytes(content)
    retention = RetentionClock(tmp_path / "clock.json", clocks.read)

    retention.advance()

    assert retention.age_s(clocks.now.wall_s - 5) == pytest.approx(5)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 2 * DAY_S), st.sampled_from([0.0, 0.0, 7200.0, 10 * DAY_S, -DAY_S])),
        max_size=12,
    )
)
def test_no_file_is_ever_older_than_the_time_that_passed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, float]]
) -> None:
    clocks = Clocks()
    retention = RetentionClock(tmp_path_factory.mktemp("clock") / "clock.json", clocks.read)
    retention.advance()
    changed = [(clocks.now.wall_s, clocks.now.uptime_s)]
    for passed_s, jump_s in steps:
        clocks.wait(passed_s)
        clocks.set_forward(jump_s)
        retention.advance()
        changed.append((clocks.now.wall_s, clocks.now.uptime_s))

    set_back = any(jump_s < 0 for _, jump_s in steps)
    for changed_s, uptime_s in changed:
        passed_s = clocks.now.uptime_s - uptime_s
        if not set_back:
            assert retention.age_s(changed_s) == pytest.approx(passed_s, abs=1)


def test_the_time_of_a_process_goes_on_when_the_clock_is_replaced() -> None:
    program = (
        "import time\n"
        "from cook_jupyter.worker.clock import now_ms\n"
        "before = now_ms()\n"
        "time.time = time.time_ns = time.monotonic = time.clock_gettime_ns = lambda *_: 0\n"
        "print(0 <= now_ms() - before < 60_000)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout == "True\n"
