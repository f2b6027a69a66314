from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.scheduling.limits.progress_buffer import ProgressBuffer


@given(
    words=st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(-2, 9)), max_size=30),
    most=st.integers(0, 4),
)
def test_the_progress_with_the_highest_sequence_number_is_kept(
    words: list[tuple[str, int | None]], most: int
) -> None:
    gathering = ProgressBuffer(max_pending=most)
    heard: dict[str, int] = {}
    for word, sequence in words:
        name = InstanceId(word)
        is_news = sequence is not None and sequence > heard.get(name, -3)
        has_room = name in heard or len(heard) < most
        assert gathering.note(name, sequence) is (is_news and has_room)
        if is_news and has_room and sequence is not None:
            heard[name] = sequence
    assert {name: update.sequence for name, update in gathering.pending.items()} == heard


def test_progress_is_drained_in_batches() -> None:
    gathering = ProgressBuffer()
    for number in range(250):
        gathering.note(InstanceId(str(number)), 1, percent=number % 100)
    assert [len(batch) for batch in gathering.drain()] == [100, 100, 50]
    assert gathering.drain() == []


def test_a_report_is_kept_if_nothing_is_pending_whatever_came_before() -> None:
    gathering = ProgressBuffer()
    gathering.note(InstanceId("a"), 5)
    gathering.drain()
    assert gathering.note(InstanceId("a"), 3)
    assert gathering.last == {"a": 3}


def test_a_report_that_is_not_newer_is_dropped() -> None:
    gathering = ProgressBuffer()
    assert gathering.note(InstanceId("a"), 5, percent=50) is True
    assert gathering.note(InstanceId("a"), 5, percent=51) is False
    assert gathering.note(InstanceId("a"), None, percent=52) is False
    assert gathering.note(InstanceId("a"), 6, percent=53) is True
    assert [update.percent for update in gathering.pending.values()] == [53]


def test_the_sequence_numbers_that_were_updated_last_are_remembered() -> None:
    gathering = ProgressBuffer(max_pending=1)
    for number in range(10):
        gathering.note(InstanceId(str(number)), 1)
        gathering.drain()
    gathering.note(InstanceId("0"), 2)
    gathering.drain()
    gathering.note(InstanceId("new"), 1)
    assert list(gathering.last) == [*map(str, range(2, 10)), "0", "new"]


def test_old_sequence_numbers_are_forgotten() -> None:
    gathering = ProgressBuffer(max_pending=1)
    for number in range(25):
        gathering.note(InstanceId(str(number)), 1)
        gathering.drain()
    assert list(gathering.last) == [str(number) for number in range(15, 25)]
