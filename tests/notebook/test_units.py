"""Amounts and times as people say them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.notebook import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0421, "0.042 s"),
        (0.42, "0.42 s"),
        (12.3, "12 s"),
        (192, "3 m 12 s"),
        (7500, "2 h 05 m"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(("mem_mb", "text"), [(310, "310 MB"), (4096, "4.0 GB"), (2 * 1024**2, "2.0 TB")])
def test_memory_has_the_unit_that_fits(mem_mb: float, text: str) -> None:
    assert units.memory(mem_mb) == text


@pytest.mark.parametrize(
    ("text", "mem_mb"), [("500", 500), ("500m", 500), ("4g", 4096), ("1.5 GB", 1536), ("2T", 2 * 1024**2)]
)
def test_memory_is_read_as_people_write_it(text: str, mem_mb: float) -> None:
    assert units.parse_memory(text) == mem_mb


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("250ms", 0.25)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@given(text=st.sampled_from(["", "-1", "0", "lots", "1e3", "g", "4 parsecs", "nan"]))
def test_what_is_no_amount_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write 500"):
        units.parse_memory(text)
    with pytest.raises(InvalidRequest, match="write 90s"):
        units.parse_duration(text)


@given(seconds=st.floats(min_value=0, max_value=1e8))
def test_every_duration_fits_in_a_column(seconds: float) -> None:
    assert len(units.duration(seconds)) <= 11


def test_cpus_have_their_noun() -> None:
    assert units.cpus(1) == "1 cpu"
    assert units.cpus(2.5) == "2.5 cpus"
