"""A call as a plain command: `python -m cook_jupyter.worker call`, which works on any Cook server.

Lives here: running one call from its environment variables, and storing its result in the blob store.
Not here: warm workers (`worker.runner`), which avoid the start of an interpreter; the call itself
(`payload.calls`).
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from cook_jupyter.payload.blobs import open_store
from cook_jupyter.payload.calls import run_call
from cook_jupyter.payload.requirements import read_requirements
from cook_jupyter.worker.runner import RESULT_FILE


def run_standalone() -> int:
    """Run the call in the environment variables; return its exit code.

    The result is stored in the blob store as `results/INSTANCE` even if it is small, because a command's end
    cannot carry it. Its name is printed to stderr, and written to a file in the sandbox for a node agent that
    had no warm worker for this interpreter.
    """
    try:
        job_id, instance_id = os.environ["COOK_JOB_UUID"], _instance_id()
    except KeyError as error:
        sys.stderr.write(f"cook_jupyter: {error.args[0]} is not set; only a Cook server can run a call\n")
        return 2
    sandbox = Path(os.environ.get("MESOS_SANDBOX", ".")).absolute()
    outcome = run_call(os.environ, job_id=job_id, instance_id=instance_id)
    blob = outcome.blob
    if outcome.inline is not None:
        blob = f"results/{instance_id}"
        requirements = read_requirements(os.environ, interpreter=sys.executable)
        open_store(requirements.store_url).put(blob, [outcome.inline])
    if blob is not None:
        sys.stderr.write(f"cook_jupyter: result {blob}, {outcome.size} bytes\n")
        summary = {"blob": blob, "size": outcome.size, "out_of_memory": outcome.out_of_memory}
        with contextlib.suppress(OSError):
            (sandbox / RESULT_FILE).write_text(json.dumps(summary), encoding="utf-8")
    return outcome.exit_code


def _instance_id() -> str:
    """Return the id of the instance, which Cook's executors set in one of two variables."""
    return os.environ.get("COOK_INSTANCE_UUID") or os.environ["MESOS_EXECUTOR_ID"]
