"""Sandboxes are given out empty, and taken back only if nobody touched them."""

import os
from pathlib import Path

import pytest

from cook_jupyter.worker.sandbox import SandboxStock, remove_if_untouched


@pytest.fixture
def stock(tmp_path: Path) -> SandboxStock:
    return SandboxStock(str(tmp_path), "w1")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_that_nobody_wrote_to_serves_again(stock: SandboxStock, tmp_path: Path) -> None:
    first = stock.take("i-1")
    assert names(tmp_path / "i-1") == {"stdout", "stderr"}

    assert not stock.give_back(first)

    assert names(tmp_path) == {".w1"}
    assert stock.take("i-2") is first


@pytest.mark.parametrize("how", ["stdout", "stderr", "a file", "a folder", "removed"])
def test_one_that_was_written_to_stays(stock: SandboxStock, tmp_path: Path, how: str) -> None:
    sandbox = stock.take("i-1")
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

    assert stock.give_back(sandbox)

    assert "i-1" in names(tmp_path)
    assert names(Path(stock.take("i-2").path)) == {"stdout", "stderr"}


def test_an_instance_gets_no_sandbox_of_another(stock: SandboxStock) -> None:
    sandbox = stock.take("i-1")
    os.write(sandbox.stdout, b"x")
    stock.give_back(sandbox)

    with pytest.raises(OSError, match="not empty"):
        stock.take("i-1")

    stock.take("i-2")


def test_a_worker_that_leaves_leaves_nothing(stock: SandboxStock, tmp_path: Path) -> None:
    stock.refill()

    stock.close()

    assert names(tmp_path) == set()


def test_the_sandbox_of_a_dead_worker_stays_if_it_holds_anything(stock: SandboxStock, tmp_path: Path) -> None:
    empty = stock.take("i-1")
    written = stock.take("i-2")
    os.write(written.stderr, b"Segmentation fault\n")

    assert not remove_if_untouched(empty.path)
    assert remove_if_untouched(written.path)

    assert names(tmp_path) == {"i-2"}
