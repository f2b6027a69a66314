"""A scheduler that may have few file descriptors, as on macOS, keeps serving its owner."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from cook_jupyter.client.connect import connect
from cook_jupyter.client.runtime import RuntimeFile, read_runtime
from tests.waiting import HANG_S

FEW = 256
SERVE = (sys.executable, "-P", "-m", "cook_jupyter", "serve")


def test_more_connections_than_descriptors_lock_nobody_out_and_fill_no_log(cook_home: Path) -> None:
    log = cook_home / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", f'ulimit -n {FEW} && exec "$@"', "sh", *SERVE, "--home", str(cook_home)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        runtime = wait_for_runtime(cook_home, process)
        host, port = runtime.url.removeprefix("http://").split(":")
        with ExitStack() as stack:
            for _ in range(FEW + 50):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=HANG_S))
            assert connect(start=False).info_v1().pid == process.pid
        assert connect(start=False).info_v1().pid == process.pid
        assert "Traceback" not in log.read_text()
        assert log.stat().st_size < 4096
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(HANG_S)


def wait_for_runtime(home: Path, process: subprocess.Popen[bytes]) -> RuntimeFile:
    """Return the runtime file of a scheduler once it is there."""
    end = time.monotonic() + HANG_S
    while time.monotonic() < end and process.poll() is None:
        runtime = read_runtime(home)
        if isinstance(runtime, RuntimeFile):
            return runtime
        time.sleep(0.01)
    raise AssertionError(f"the scheduler does not listen; exit code {process.poll()}")
