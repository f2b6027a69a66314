"""Results are written atomically, and their paths are checked first."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.simulation.outputs import check_directory, check_file, write_text
from cook_jupyter.simulation.traces import RunRow, write_rows
from tests.simulation.test_measures import a_row


def test_checking_a_writable_file_does_not_change_it(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old")

    check_file(tmp_path / "old.csv", "--out")
    check_file(tmp_path / "new.csv", "--out")

    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing/rows.csv", "there is no directory .*missing"),
        ("", "is a directory"),
        ("file/rows.csv", "no directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(name: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(InvalidRequest, match=rf"--out .*{complaint}"):
        check_file(tmp_path / name, "--out")


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_invalid_directory_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(InvalidRequest, match=r"--report .*file"):
        check_directory(tmp_path / name, "--report")


def test_a_directory_is_created_with_its_parents(tmp_path: Path) -> None:
    check_directory(tmp_path / "new" / "folder", "--report")

    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    write_rows(file, [a_row()])
    content = file.read_text()

    def rows() -> Iterator[RunRow]:
        yield a_row()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_rows(file, rows())

    assert file.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_symbolic_link_is_kept_and_the_file_has_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "plain").write_text("")

    write_text(tmp_path / "link", "text")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("target", "plain")]
    assert modes[0] == modes[1]


def test_a_pipe_is_written_to_and_kept(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    check_file(pipe, "--out")
    write_text(pipe, "text")

    assert os.read(reader, 10) == b"text"
    assert pipe.is_fifo()
    os.close(reader)
