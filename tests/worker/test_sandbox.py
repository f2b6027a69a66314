"""Sandboxes are given out empty, and taken back only if nobody touched them."""

import os
import shutil
from pathlib import Path

import pytest

from cook_jupyter.worker.sandbox import SandboxPool, remove_if_untouched


@pytest.fixture
def stock(tmp_path: Path) -> SandboxPool:
    return SandboxPool(str(tmp_path), "w1")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_that_nobody_wrote_to_serves_again(stock: SandboxPool, tmp_path: Path) -> None:
    first = stock.acquire("i-1")
    assert names(tmp_path / "i-1") == {"stdout", "stderr"}

    assert not stock.release(first)

    assert names(tmp_path) == {".w1"}
    assert stock.acquire("i-2") is first


@pytest.mark.parametrize("how", ["stdout", "stderr", "a file", "a folder", "removed"])
def test_one_that_was_written_to_stays(stock: SandboxPool, tmp_path: Path, how: str) -> None:
    sandbox = stock.acquire("i-1")
    if how == "stdout":
        os.write(sandbox.stdout, b"x")
    elif how == "stderr":
        os.write(sandbox.stderr, b"x")
    elif how == "a file":
        (tmp_path / "i-1" / "plot.png").touch()
    elif how == "a folder":
        (tmp_path / "i-1" / "plots").mkdir()
    else:
        (tmp_path / "i-1" / "stdout").unlink()

    assert stock.release(sandbox)

    assert "i-1" in names(tmp_path)
    assert names(Path(stock.acquire("i-2").path)) == {"stdout", "stderr"}


@pytest.mark.parametrize("part", [".w1", ".w1/stdout", ".w1/stderr", ".w1/*", "."])
def test_one_in_stock_that_was_removed_in_any_part_is_replaced(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "sandboxes"
    stock = SandboxPool(str(folder), "w1")
    stock.refill()
    for path in [folder] if part == "." else list(folder.glob(part)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    sandbox = stock.acquire("i-1")

    os.write(sandbox.stdout, b"out")
    os.write(sandbox.stderr, b"err")
    assert (folder / "i-1/stdout").read_text() == "out"
    assert (folder / "i-1/stderr").read_text() == "err"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_left_of_one_in_stock_is_in_nobodys_way(stock: SandboxPool, tmp_path: Path) -> None:
    stock.refill()
    (tmp_path / ".w1" / "of somebody else").touch()
    (tmp_path / ".w1" / "stdout").unlink()

    sandbox = stock.acquire("i-1")

    assert names(Path(sandbox.path)) == {"stdout", "stderr"}


@pytest.mark.parametrize("removed", ["i-1", "."])
def test_one_that_was_removed_in_use_is_not_said_to_be_there(tmp_path: Path, removed: str) -> None:
    folder = tmp_path / "sandboxes"
    stock = SandboxPool(str(folder), "w1")
    sandbox = stock.acquire("i-1")
    shutil.rmtree(folder / removed)

    assert not stock.release(sandbox)

    assert names(Path(stock.acquire("i-2").path)) == {"stdout", "stderr"}


def test_an_instance_gets_no_sandbox_of_another(stock: SandboxPool) -> None:
    sandbox = stock.acquire("i-1")
    os.write(sandbox.stdout, b"x")
    stock.release(sandbox)

    with pytest.raises(OSError, match="not empty"):
        stock.acquire("i-1")

    stock.acquire("i-2")


def test_a_worker_that_leaves_leaves_nothing(stock: SandboxPool, tmp_path: Path) -> None:
    stock.refill()

    stock.close()

    assert names(tmp_path) == set()


def test_the_sandbox_of_a_dead_worker_stays_if_it_holds_anything(stock: SandboxPool, tmp_path: Path) -> None:
    empty = stock.acquire("i-1")
    written = stock.acquire("i-2")
    os.write(written.stderr, b"Segmentation fault\n")

    assert not remove_if_untouched(empty.path)
    assert remove_if_untouched(written.path)

    assert names(tmp_path) == {"i-2"}
