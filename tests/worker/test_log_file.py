"""Log files stay small, whoever else appends to them."""

import os
from pathlib import Path

import pytest

from cook_jupyter.worker.log_file import bound_log


def test_a_log_that_is_small_enough_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 100)
    assert not bound_log(str(log), 100)
    assert log.stat().st_size == 100
    assert not (tmp_path / "log.1").exists()


def test_a_larger_one_begins_anew_and_its_end_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for round_number in range(3):
        log.write_bytes(bytes([round_number]) + b"x" * 200_000 + b"the end")
        assert bound_log(str(log), 150_000)
        kept = (tmp_path / "log.1").read_bytes()
        assert (len(kept), kept[-7:]) == (150_000, b"the end")
        assert log.stat().st_size == 0
        assert (tmp_path / "log.1").stat().st_mode & 0o777 == 0o600


def test_those_who_append_to_it_go_on_in_the_same_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    inherited = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(inherited, b"x" * 200)
        assert bound_log(str(log), 100)
        os.write(inherited, b"later")
        assert log.read_bytes() == b"later"
    finally:
        os.close(inherited)


@pytest.mark.parametrize("taken", [False, True], ids=["no file", "a directory"])
def test_what_is_no_log_is_left_alone(tmp_path: Path, taken: bool) -> None:
    if taken:
        (tmp_path / "log").mkdir()
    assert not bound_log(str(tmp_path / "log"), 0)


def test_where_the_end_cannot_be_kept_the_log_is_emptied_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 200)
    (tmp_path / "log.1").mkdir()
    assert bound_log(str(tmp_path / "log"), 100)
    assert (tmp_path / "log").stat().st_size == 0
