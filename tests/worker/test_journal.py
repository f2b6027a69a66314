"""What was written down is found again; what was settled, or half written, is not."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.worker.frames import pack
from cook_jupyter.worker.journal import (
    JOURNAL_FILE,
    AgentJournal,
    AppendOnly,
    WorkerJournal,
    read_frames,
    worker_segments,
)


def test_a_ledger_remembers_what_is_not_settled(tmp_path: Path) -> None:
    ledger = AgentJournal(str(tmp_path), {})
    ledger.record("a", {"t": "launch", "pid": 7})
    ledger.record("b", {"t": "launch", "pid": 8})
    ledger.record("a", {"t": "doom", "cause": "killed"})
    ledger.record("b", {"t": "end"}, b"result")
    ledger.settle(["a", "unknown"])
    ledger.flush()

    noted = AgentJournal.read(str(tmp_path))

    assert [(frame.header["t"], frame.tail) for frame in noted["b"]] == [("launch", b""), ("end", b"result")]
    assert set(noted) == {"b"}


def test_nothing_is_on_disk_before_the_flush(tmp_path: Path) -> None:
    ledger = AgentJournal(str(tmp_path), {})

    ledger.record("a", {"t": "launch"})

    assert AgentJournal.read(str(tmp_path)) == {}


def test_a_new_ledger_begins_with_what_the_last_one_left(tmp_path: Path) -> None:
    first = AgentJournal(str(tmp_path), {})
    first.record("a", {"t": "launch"})
    first.flush()
    with (tmp_path / JOURNAL_FILE).open("ab") as file:
        file.write(pack({"t": "launch", "id": "torn"})[:-3])

    second = AgentJournal(str(tmp_path), AgentJournal.read(str(tmp_path)))
    second.record("b", {"t": "launch"})
    second.flush()

    assert list(AgentJournal.read(str(tmp_path))) == ["a", "b"]


def test_a_ledger_stays_small_however_much_went_through_it(tmp_path: Path) -> None:
    ledger = AgentJournal(str(tmp_path), {})
    ledger.record("long", {"t": "launch"})
    for number in range(300):
        ledger.record(str(number), {"t": "launch", "padding": "x" * 20_000})
        ledger.settle([str(number)])
        ledger.flush()

    assert (tmp_path / JOURNAL_FILE).stat().st_size < 2_000_000
    assert list(AgentJournal.read(str(tmp_path))) == ["long"]


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["note", "settle", "flush", "restart"]), st.sampled_from("abcd")),
        max_size=30,
    )
)
def test_a_ledger_never_forgets_nor_invents(
    steps: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("ledger"))
    ledger = AgentJournal(folder, {})
    known: dict[str, int] = {}
    for step, name in steps:
        if step == "note":
            ledger.record(name, {"t": "launch"})
            known[name] = known.get(name, 0) + 1
        elif step == "settle":
            ledger.settle([name])
            known.pop(name, None)
        else:
            ledger.flush()
            if step == "restart":
                ledger = AgentJournal(folder, AgentJournal.read(folder))
    ledger.flush()

    assert {name: len(frames) for name, frames in AgentJournal.read(folder).items()} == known


def test_a_worker_begins_a_new_segment_when_one_is_long(tmp_path: Path) -> None:
    log = WorkerJournal(str(tmp_path), "w1-1")
    segments = []
    for number in range(5):
        segments.append(log.roll())
        log.append(pack({"t": "end", "number": number}, b"x" * 600_000))

    assert segments == [0, 0, 1, 1, 2]
    [paths] = worker_segments(str(tmp_path)).values()
    found = [frame.header["number"] for path in paths for frame in read_frames(path)]
    assert found == list(range(5))


def test_a_full_disk_leaves_a_journal_as_it_was(tmp_path: Path) -> None:
    file = AppendOnly(str(tmp_path / "journal"))
    file.append(pack({"n": 1}))

    with no_file_beyond(1000), pytest.raises(OSError, match="too large"):
        file.append(pack({"n": 2}, b"x" * 2000))
    file.append(pack({"n": 3}))

    assert [frame.header["n"] for frame in read_frames(str(tmp_path / "journal"))] == [1, 3]


def test_a_ledger_that_could_not_be_written_says_so_and_goes_on(tmp_path: Path) -> None:
    ledger = AgentJournal(str(tmp_path), {})
    ledger.record("a", {"t": "launch", "padding": "x" * 2000})
    with no_file_beyond(1000), pytest.raises(OSError, match="too large"):
        ledger.flush()

    ledger.record("b", {"t": "launch"})
    ledger.flush()

    assert list(AgentJournal.read(str(tmp_path))) == ["b"]


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Nearest to a full disk: writes beyond this size are partly done, then refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
