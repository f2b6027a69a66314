"""The environment variables that a task sees, and those that tell Cook's own executor how to run one.

Lives here: the tables, and nothing that touches a process.
Not here: setting and undoing it (`worker.runner`).

Source: what Cook's executor and its schedulers set, as told in the REST specification, section 17.
"""

import os
import pwd
import sys
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from cook_jupyter.payload.requirements import CALL_VARIABLES
from cook_jupyter.worker.progress import DEFAULT_REGEX
from cook_jupyter.worker.task import Task

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_PROGRESS_FILE = "EXECUTOR_PROGRESS_OUTPUT_FILE"
_PROGRESS_VARIABLE = "EXECUTOR_PROGRESS_OUTPUT_FILE_ENV"  # names the variable to look in instead
HOME_VARIABLE = "COOK_JUPYTER_HOME"  # so that a task that submits tasks finds the same scheduler
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
INTERPRETER_VARIABLES = (
    "PYTHONHOME",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
)


class ExecutorSettings(NamedTuple):
    """How an operator wants Cook's executor to behave.

    Attributes:
        environment: further variables.
        log_level: how much it logs.
        max_message_length: the most bytes of a message that it sends.
        progress_regex: what it takes for progress in the lines of a task that does not say.
        progress_sample_ms: how often it looks for progress.
    """

    environment: Mapping[str, str] = {}
    log_level: str = "INFO"
    max_message_length: int = 512
    progress_regex: str = DEFAULT_REGEX
    progress_sample_ms: int = 1000


def executor_environment(
    settings: ExecutorSettings, *, progress_file: str | None = None, progress_regex: str | None = None
) -> dict[str, str]:
    """Return what Cook's executor is told. Our own agents know it from the `Task`.

    Args:
        settings: of the operator.
        progress_file: where the task writes its progress, relative to its sandbox; None if it does not say.
        progress_regex: what its progress looks like; None for what is usual.
    """
    return {
        **settings.environment,
        "EXECUTOR_LOG_LEVEL": settings.log_level,
        "EXECUTOR_MAX_MESSAGE_LENGTH": str(settings.max_message_length),
        "PROGRESS_REGEX_STRING": progress_regex or settings.progress_regex,
        "PROGRESS_SAMPLE_INTERVAL_MS": str(settings.progress_sample_ms),
        **_named_progress_file(progress_file),
    }


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that every task of this host sees, whoever started the scheduler.

    They follow from the user and the interpreter alone. Whatever else a task needs is named by whoever
    submits it.

    Args:
        environ: the environment of this process; says which scheduler it belongs to, and where the home
            directory is of a user whom the system does not know.
    """
    try:
        user = pwd.getpwuid(os.getuid())
        known = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}
    except KeyError:  # a container may run under any uid
        known = {"HOME": environ.get("HOME", "/")}
    seen = {
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), *SYSTEM_PATH)),
        "LANG": "C.UTF-8",
        **known,
    }
    if HOME_VARIABLE in environ:
        seen[HOME_VARIABLE] = environ[HOME_VARIABLE]
    return seen


def process_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a worker process is started with: what tasks see and what its interpreter needs."""
    needed = {name: environ[name] for name in INTERPRETER_VARIABLES if name in environ}
    return {**base_environment(environ), **needed}


def task_environment(task: Task, sandbox: str) -> dict[str, str]:
    """Return what a task sees on top of `base_environment`.

    The job's own variables come first, the system's names win over them; the numbers of threads, which keep
    a job of one cpu from taking the whole machine, give way to the job's. A call keeps its user's HOME, for
    it runs that user's own code with its caches and settings; a command's HOME is its sandbox.

    Args:
        task: what will run.
        sandbox: its directory.
    """
    threads = str(max(1, int(task.cpus)))
    seen = dict.fromkeys(THREAD_VARIABLES, threads)
    seen.update(task.env)
    if task.python is not None:
        for name in CALL_VARIABLES:
            seen.pop(name, None)  # up to 64 KiB that nobody but the worker reads
    seen.update(_named_progress_file(task.progress_file))
    progress = task.progress_file or f"{sandbox}/{task.instance_id}.progress"
    seen.setdefault(_PROGRESS_FILE, progress)
    seen.setdefault(seen.get(_PROGRESS_VARIABLE, _PROGRESS_FILE), progress)
    seen["COOK_JOB_UUID"] = task.job_id
    seen["COOK_INSTANCE_UUID"] = task.instance_id
    seen["COOK_INSTANCE_NUM"] = str(task.attempt)
    seen["COOK_JOB_CPUS"] = str(float(task.cpus))
    seen["COOK_JOB_MEM_MB"] = str(float(task.mem_mb))
    seen.pop("COOK_JOB_GPUS", None)
    if task.gpus:
        seen["COOK_JOB_GPUS"] = f"{task.gpus:g}"
    seen.pop("COOK_JOB_GROUP_UUID", None)
    if task.group is not None:
        seen["COOK_JOB_GROUP_UUID"] = task.group
    for number, port in enumerate(task.ports):
        seen[f"PORT{number}"] = str(port)
    seen["MESOS_SANDBOX"] = seen["MESOS_DIRECTORY"] = sandbox
    if task.python is None:
        seen["HOME"] = sandbox
    return seen


def import_environment(env: Mapping[str, str], *, cpus: float) -> str:
    """Return a digest of the variables that a package may read while it is imported, and only then.

    A numerical library makes its threads then, matplotlib chooses its backend, and so on: in a worker that
    has imported it, another value would have no effect.

    Args:
        env: the job's own variables; those that tell of the call itself are left out.
        cpus: of the job, which set the numbers of threads.
    """
    own = [item for item in env.items() if not item[0].startswith("COOK_")]
    return f"{max(1, int(cpus))}" + (f"-{zlib.crc32(repr(sorted(own)).encode()):x}" if own else "")


def progress_path(seen: Mapping[str, str], sandbox: str) -> str:
    """Return where a task with this environment writes its progress, as Cook's executor would look it up."""
    return os.path.join(sandbox, seen[seen.get(_PROGRESS_VARIABLE, _PROGRESS_FILE)])


def _named_progress_file(progress_file: str | None) -> dict[str, str]:
    """What says where a task writes its progress, if it is not the usual place."""
    if progress_file is None:
        return {}
    name = "EXECUTOR_PROGRESS_OUTPUT_FILE_NAME"
    return {_PROGRESS_VARIABLE: name, name: progress_file}
