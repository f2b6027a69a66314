"""The logs of a scheduler and its node agent never fill the disk."""

import time
from pathlib import Path

import pytest

from cook_jupyter import CookExecutor
from cook_jupyter.worker.log_file import MAX_LOG_BYTES
from tests.waiting import HANG_S


@pytest.mark.parametrize("name", ["scheduler.log", "agent.log"])
def test_a_log_that_grew_large_begins_anew(cook_home: Path, name: str) -> None:
    log = cook_home / "log" / name
    with CookExecutor(cpus=0.1, mem_mb=64) as executor:
        executor.submit(abs, -1).result(HANG_S)
        with log.open("ab") as file:
            file.write(b"x" * MAX_LOG_BYTES + b"\nthe last line\n")
        end = time.monotonic() + HANG_S
        while log.stat().st_size > MAX_LOG_BYTES:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert log.with_name(f"{name}.1").read_bytes().endswith(b"\nthe last line\n")
