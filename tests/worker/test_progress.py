"""Progress is the last line that says so."""

from pathlib import Path

import pytest

from cook_jupyter.worker.progress import ProgressReader


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("progress: 50", (50.0, None)),
        ("progress:\t12.5 loading", (12.5, "loading")),
        ("INFO progress: 7   two words  ", (7.0, "two words")),
        ("progress: .5 half a percent", (0.5, "half a percent")),
        ("progress: 101 too much", None),
        ("progress: -1", None),
        ("progress:5", None),
        ("progress: 5%", None),
        ("in progress", None),
        ("progress: 10 " + "x" * 900, (10.0, "x" * 512)),
    ],
)
def test_a_line_says(tmp_path: Path, line: str, progress: tuple[float, str | None] | None) -> None:
    (tmp_path / "stdout").write_text(line + "\n")

    assert ProgressReader([str(tmp_path / "stdout")]).read_new() == progress


def test_the_last_valid_line_wins_and_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    reader = ProgressReader([str(path)])
    path.write_text("progress: 10\nprogress: 30 a\nprogress: 200\nprog")

    assert reader.read_new() == (30.0, "a")
    assert reader.read_new() is None
    with path.open("a") as file:
        file.write("ress: 20 it may go down\n")
    assert reader.read_new() == (20.0, "it may go down")


def test_a_last_line_without_an_end_counts_when_the_task_has_ended(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_text("progress: 99 nearly")
    reader = ProgressReader([str(tmp_path / "stdout")])

    assert reader.read_new() is None
    assert reader.read_new(at_end=True) == (99.0, "nearly")


def test_a_bar_that_overwrites_itself_is_read(tmp_path: Path) -> None:
    (tmp_path / "stderr").write_text("progress: 1 x\rprogress: 2 x\rprogress: 3 x\r")

    assert ProgressReader([str(tmp_path / "stderr")]).read_new() == (3.0, "x")


def test_a_flood_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    path.write_bytes(b"progress: 1\n" + b"x" * 50_000_000 + b"\nprogress: 60\n")
    reader = ProgressReader([str(path)])

    assert reader.read_new() == (60.0, None)


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"\xff\xfe\x00\nprogress: 5 \xff\n")

    assert ProgressReader([str(tmp_path / "stdout")]).read_new() == (5.0, "\ufffd")


@pytest.mark.parametrize("regex", ["(", r"done (\d+)", r"(never)"])
def test_an_expression_of_the_users_may_be_wrong_or_have_one_group(tmp_path: Path, regex: str) -> None:
    (tmp_path / "stdout").write_text("never\ndone 40\n")

    found = ProgressReader([str(tmp_path / "stdout")], regex).read_new()

    assert found == ((40.0, None) if "done" in regex else None)


def test_a_missing_file_has_no_progress(tmp_path: Path) -> None:
    assert ProgressReader([str(tmp_path / "nothing")]).read_new(at_end=True) is None
