"""A message is what the table of its sender says, or it is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.worker import protocol
from cook_jupyter.worker.frames import BrokenStream, frame_of, header_of
from cook_jupyter.worker.task import Task, TaskExit, end_of

TABLES = {name: getattr(protocol, name) for name in ("FROM_SCHEDULER", "FROM_WORKER", "FROM_SPAWNER")}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_task_and_an_end_are_as_their_tables_say() -> None:
    task = Task(instance_id="i", job_id="j", user="u", command="true", env={}, cpus=1, mem_mb=8.5, ports=(7,))
    end = TaskExit("i", None, 5, peak_mb=1.5, progress=(3.0, None), written=True)
    told = {**end.as_header(), "segment": 0, "leftover_mb": -1.5, "retires": False}

    launch = header_of(task.packed()[8:].split(b'{"command"')[0])

    assert protocol.require(launch, protocol.FROM_SCHEDULER) == "launch"
    assert protocol.require(header_of(frame_of(told).head), protocol.FROM_WORKER) == "end"


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data())
def test_whatever_a_header_holds_it_is_of_its_kind_or_refused(name: str, data: st.DataObject) -> None:
    table = TABLES[name]
    kind = data.draw(st.sampled_from(sorted(table)) | json_values)
    fields = sorted({field for of_kind in table.values() for field in of_kind})
    header: dict[str, Any] = data.draw(st.dictionaries(st.sampled_from(fields), json_values))

    try:
        found = protocol.require({**header, "t": kind}, table)
    except BrokenStream:
        return

    assert found in table
    required = {field for field, check in table[found].items() if not isinstance(check, protocol.optional)}
    assert required <= header.keys()


@given(st.dictionaries(st.sampled_from(TaskExit._fields), json_values))
def test_what_passes_for_an_end_can_be_reported(fields: dict[str, Any]) -> None:
    header = {"t": "end", "segment": 0, "leftover_mb": 0.0, "retires": False, **fields}
    if not protocol.is_valid(header, protocol.FROM_WORKER):
        return

    end = end_of(header)

    assert 0 <= end.at_ms < 2**63
    assert end.exit_code is None or -(2**31) < end.exit_code < 2**31
    assert end.peak_mb is None or end.peak_mb < float("inf")
    assert end.progress is None or 0 <= round(end.progress[0]) <= 100


@pytest.mark.parametrize(
    "field",
    [
        {"remaining": 5},
        {"remaining": [7]},
        {"remaining": "text"},
        {"imported": [1]},
        {"blob": "\ud800"},
        {"progress": [5, "\udfff"]},
    ],
    ids=str,
)
def test_an_end_is_refused_whose_field_ends_the_agent_or_cannot_be_stored(field: dict[str, Any]) -> None:
    header = {"t": "end", "instance_id": "i", "exit_code": 0, "at_ms": 1}

    with pytest.raises(BrokenStream):
        protocol.require(
            {**header, "segment": 0, "leftover_mb": 0.0, "retires": True, **field}, protocol.FROM_WORKER
        )


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["leftover_mb", "peak_mb", "progress"])
def test_a_number_that_no_float_can_hold_is_refused(field: str, number: float) -> None:
    header: dict[str, Any] = {"t": "end", "instance_id": "i", "exit_code": 0, "at_ms": 1}
    header |= {"segment": 0, "leftover_mb": 0.0, "retires": False}
    header[field] = [number, None] if field == "progress" else number

    with pytest.raises(BrokenStream):
        protocol.require(header, protocol.FROM_WORKER)


@pytest.mark.parametrize("head", [b"[]", b"7", b"null", b'"end"', b"[" * 100_000, b"{", b"\xff", b"1" * 5000])
def test_a_header_that_is_no_object_is_a_broken_stream(head: bytes) -> None:
    with pytest.raises(BrokenStream):
        header_of(head)
