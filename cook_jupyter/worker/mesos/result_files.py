"""Large results as files, which the scheduler fetches from the agent.

Lives here: writing them. Everything in TaskStatus.data stays in the memory and on the disk of the agent, and
travels through the master; a file does not.
Not here: fetching and verifying them (`clusters.mesos`).
"""

import contextlib
import os

from cook_jupyter.worker.agent_log import log
from cook_jupyter.worker.mesos.messages import MAX_INLINE_RESULT, RESULT_FILE, ResultFile
from cook_jupyter.worker.task import EndReport


def write_result(report: EndReport) -> ResultFile | None:
    """Write the result of an end to the sandbox of its instance.

    Args:
        report: the end.

    Returns:
        None if the result is small, or cannot be written; then it is sent with the update.
    """
    if len(report.result) <= MAX_INLINE_RESULT:
        return None
    from hashlib import sha256  # rarely needed

    path = f"{report.sandbox}/{RESULT_FILE}"
    try:
        os.makedirs(report.sandbox, mode=0o700, exist_ok=True)  # a call that wrote nothing has left none
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # the task may have made it, even as a link
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(report.result)
    except OSError as error:
        log(f"the result of {report.end.instance_id} is sent with its update: {error}")
        return None
    return ResultFile(RESULT_FILE, len(report.result), sha256(report.result).hexdigest())
