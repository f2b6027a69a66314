"""A job that leaves a mark; its module loads nothing, as each worker imports it."""

import os
import time


def work(number: int, ledger: str, seconds: float) -> int:
    """Take some time, and leave a mark in the ledger when done."""
    time.sleep(seconds)
    mark = f"{os.environ['COOK_JOB_UUID']} {os.environ['COOK_INSTANCE_UUID']}\n".encode()
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, mark)
    os.close(descriptor)
    return 2 * number
