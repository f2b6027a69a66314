"""Resources of offers: added up and cut to size, without residue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.clusters.mesos.messages import JsonObject
from cook_jupyter.clusters.mesos.resources import HeldResources, NotHeld, amounts_of, without_port
from cook_jupyter.model.resources import Resources
from tests.clusters.mesos.builders import ports, scalar

RESERVED = {"reservations": [{"type": "STATIC", "role": "research"}]}


def numbers_in(*parts: JsonObject) -> list[int]:
    return [
        port
        for part in parts
        for span in part["ranges"]["range"]
        for port in range(span["begin"], span["end"] + 1)
    ]


def test_a_part_keeps_everything_of_its_resource_but_the_amount() -> None:
    resource = scalar("cpus", 4.0, allocation_info={"role": "r"}, later={"Mesos": 2})

    [part] = HeldResources([resource]).take(Resources(cpus=1.5))

    assert part == {**resource, "scalar": {"value": 1.5}}


def test_reserved_resources_are_taken_first_and_others_fill_up() -> None:
    held = HeldResources([scalar("cpus", 2.0), scalar("cpus", 1.0, **RESERVED)])

    parts = held.take(Resources(cpus=1.5))

    assert [(part["scalar"]["value"], "reservations" in part) for part in parts] == [
        (1.0, True),
        (0.5, False),
    ]
    assert held.amounts() == Resources(cpus=1.5)


@pytest.mark.parametrize("wanted", [Resources(cpus=4.001), Resources(mem_mb=1), Resources(cpus=1, gpus=1)])
def test_what_is_not_held_cannot_be_taken_and_nothing_is_removed(wanted: Resources) -> None:
    held = HeldResources([scalar("cpus", 4.0)])

    with pytest.raises(NotHeld):
        held.take(wanted)

    assert held.amounts() == Resources(cpus=4.0)


@pytest.mark.parametrize(("amount", "count"), [(0.6666, 6), (1 / 3, 12), (0.8, 5), (0.0019, 2105), (2.3, 1)])
def test_what_fits_in_sum_is_held_in_parts(amount: float, count: int) -> None:
    held = HeldResources([scalar("cpus", 4.0), scalar("mem", 4.0)])

    for _ in range(count):
        parts = held.take(Resources(cpus=amount, mem_mb=amount))
        assert [part["scalar"]["value"] for part in parts] == pytest.approx([amount] * 2, abs=0.001)


def test_ports_are_taken_by_number() -> None:
    held = HeldResources([ports((31000, 31009), (31020, 31020))])

    [part] = held.take(Resources(), [31005, 31020])

    assert numbers_in(part) == [31005, 31020]
    assert held.ports() == ((31000, 31004), (31006, 31009))
    with pytest.raises(NotHeld, match="31005"):
        held.take(Resources(), [31005])


@pytest.mark.parametrize(
    "resource",
    [
        scalar("cpus", 1.0, revocable={}),
        scalar("cpus", 1.0, shared={}),
        scalar("disk", 1.0, disk={"persistence": {"id": "p"}}),
        scalar("cpus", 1.0, provider_id={"value": "p"}),
    ],
)
def test_what_may_be_taken_away_or_is_not_ours_alone_does_not_count(resource: JsonObject) -> None:
    assert amounts_of([resource]) == Resources()


thousandths = st.integers(1, 8000)


@given(
    st.lists(st.tuples(thousandths, st.booleans()), max_size=5),
    st.lists(st.integers(1, 3000), max_size=12),
)
def test_what_is_taken_and_what_is_left_make_up_the_whole(
    offered: list[tuple[int, bool]], wanted: list[int]
) -> None:
    held = HeldResources(scalar("cpus", n / 1000, **(RESERVED if own else {})) for n, own in offered)
    whole, taken = sum(n for n, _ in offered), 0

    for amount in wanted:
        fits = amount <= whole - taken
        try:
            parts = held.take(Resources(cpus=amount / 1000))
        except NotHeld:
            assert not fits
            continue
        assert fits
        assert sum(round(part["scalar"]["value"] * 1000) for part in parts) == amount
        taken += amount

    assert held.amounts() == Resources(cpus=(whole - taken) / 1000)


@given(st.sets(st.integers(0, 30)), st.integers(0, 30))
def test_a_range_without_a_number_has_all_others(numbers: set[int], port: int) -> None:
    spans = [(number, number) for number in sorted(numbers)]

    left = {n for low, high in without_port(spans, port) for n in range(low, high + 1)}

    assert left == numbers - {port}
