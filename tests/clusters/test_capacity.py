"""Room: what a machine or a container has, sums without crumbs, ports that are nobody else's."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.clusters.local.capacity import PortAllocator, usable_cpus, usable_mem_mb
from cook_jupyter.clusters.room import remaining, sum_resources
from cook_jupyter.model.resources import Resources

amounts = st.builds(
    Resources,
    cpus=st.sampled_from([0.1, 0.05, 0.3, 1.0, 1.7]),
    mem_mb=st.sampled_from([32.0, 33.3, 512.1]),
    gpus=st.sampled_from([0.0, 1.0]),
)


@given(held=st.lists(amounts, max_size=40))
def test_what_was_held_and_given_back_leaves_the_whole(held: list[Resources]) -> None:
    whole = sum_resources([*held, Resources(cpus=1, mem_mb=1)])

    for number in range(len(held) + 1):
        still = sum_resources(held[number:])
        assert Resources(cpus=1, mem_mb=1).fits_in(remaining(whole, still))
    assert remaining(whole, sum_resources([])) == whole


def test_more_than_everything_leaves_nothing_not_less() -> None:
    assert remaining(Resources(cpus=1), Resources(cpus=2, mem_mb=3)) == Resources()


def test_a_container_has_its_quota_not_the_machine(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2048 << 20}\n")

    assert usable_cpus(tmp_path) == 0.5
    assert usable_mem_mb(tmp_path) == pytest.approx(2048 * 0.9, abs=1)


def test_a_container_of_the_older_kind_too(tmp_path: Path) -> None:
    for name, text in {
        "cpu/cpu.cfs_quota_us": "25000",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": str(1024 << 20),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")

    assert usable_cpus(tmp_path) == 0.25
    assert usable_mem_mb(tmp_path) == pytest.approx(1024 * 0.9, abs=1)


@pytest.mark.parametrize(("cpu", "memory"), [("max 100000", "max"), ("", ""), ("-1", "-1")])
def test_without_a_quota_it_is_the_machine(tmp_path: Path, cpu: str, memory: str) -> None:
    (tmp_path / "cpu.max").write_text(cpu)
    (tmp_path / "memory.max").write_text(memory)

    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
    assert usable_mem_mb(tmp_path) == usable_mem_mb(tmp_path / "nothing")


@given(
    steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 4) | st.none()), max_size=20),
)
def test_no_port_is_given_twice_and_none_is_lost(steps: list[tuple[str, int | None]]) -> None:
    ports = PortAllocator(31990, 31999)
    given_out: dict[str, tuple[int, ...]] = {}
    for name, count in steps:
        if count is None:
            ports.release(name)
            given_out.pop(name, None)
        elif name not in given_out and (chosen := ports.choose(name, count)) is not None:
            given_out[name] = chosen

        taken = [port for chosen in given_out.values() for port in chosen]
        free = {port for first, last in ports.free() for port in range(first, last + 1)}
        assert len(taken) == len(set(taken))
        assert not free & set(taken)
        assert free | set(taken) == set(range(31990, 32000))


def test_who_asks_for_more_ports_than_there_are_gets_none() -> None:
    assert PortAllocator(31990, 31992).choose("a", 4) is None


def test_a_port_on_which_somebody_listens_is_not_chosen() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]

        assert PortAllocator(port, port).choose("a", 1) is None
        assert not PortAllocator(port, port).acquire("a", (port,))
