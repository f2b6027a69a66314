"""Environment variables of a task, and those that configure Cook's own executor.

Lives here: the tables of variables; nothing that affects a process.
Not here: setting and restoring them (`worker.process_state`).

Source: Cook's executor and schedulers, as described in the REST specification, section 17.
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
_PROGRESS_VARIABLE = "EXECUTOR_PROGRESS_OUTPUT_FILE_ENV"  # names the variable that is used instead
HOME_VARIABLE = "COOK_JUPYTER_HOME"  # lets a task that submits jobs find the same scheduler
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
INTERPRETER_VARIABLES = (
    "PYTHONHOME",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH",
)


class ExecutorSettings(NamedTuple):
    """An operator's settings for Cook's executor.

    Attributes:
        environment: additional variables.
        log_level: log level of the executor.
        max_message_length: maximum size of a message that it sends, in bytes.
        progress_regex: pattern for progress in the output of tasks without a pattern of their own.
        progress_sample_ms: interval at which it checks for progress.
    """

    environment: Mapping[str, str] = {}
    log_level: str = "INFO"
    max_message_length: int = 512
    progress_regex: str = DEFAULT_REGEX
    progress_sample_ms: int = 1000


def executor_environment(
    settings: ExecutorSettings, *, progress_file: str | None = None, progress_regex: str | None = None
) -> dict[str, str]:
    """Return the variables that configure Cook's executor. The node agent takes these values from the `Task`.

    Args:
        settings: settings of the operator.
        progress_file: progress file of the task, relative to its sandbox; None for the default.
        progress_regex: pattern of the task's progress; None for the default.
    """
    return {
        **settings.environment,
        "EXECUTOR_LOG_LEVEL": settings.log_level,
        "EXECUTOR_MAX_MESSAGE_LENGTH": str(settings.max_message_length),
        "PROGRESS_REGEX_STRING": progress_regex or settings.progress_regex,
        "PROGRESS_SAMPLE_INTERVAL_MS": str(settings.progress_sample_ms),
        **_progress_file_variables(progress_file),
    }


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that every task of this host sees, whatever process started the scheduler.

    They depend only on the user and the interpreter. Other variables must be named when a job is submitted.

    Args:
        environ: environment of this process, for COOK_JUPYTER_HOME, and for HOME if the system does not know
            the user.
    """
    try:
        user = pwd.getpwuid(os.getuid())
        user_variables = {
            "HOME": user.pw_dir,
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": user.pw_shell,
        }
    except KeyError:  # a container may run under any uid
        user_variables = {"HOME": environ.get("HOME", "/")}
    variables = {
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), *SYSTEM_PATH)),
        "LANG": "C.UTF-8",
        **user_variables,
    }
    if HOME_VARIABLE in environ:
        variables[HOME_VARIABLE] = environ[HOME_VARIABLE]
    return variables


def process_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which a worker process is started: those of tasks and of its interpreter."""
    needed = {name: environ[name] for name in INTERPRETER_VARIABLES if name in environ}
    return {**base_environment(environ), **needed}


def task_environment(task: Task, sandbox: str) -> dict[str, str]:
    """Return the variables that a task sees in addition to `base_environment`.

    The system's variables override the job's own, except the numbers of threads, which only keep a job of one
    cpu from using the whole machine. A call keeps its user's HOME, because it runs that user's own code with
    its caches and settings; the HOME of a command is its sandbox.

    Args:
        task: the task.
        sandbox: its directory.
    """
    threads = str(max(1, int(task.cpus)))
    variables = dict.fromkeys(THREAD_VARIABLES, threads)
    variables.update(task.env)
    if task.python is not None:
        for name in CALL_VARIABLES:
            variables.pop(name, None)  # up to 64 KiB that only the worker reads
    variables.update(_progress_file_variables(task.progress_file))
    progress = task.progress_file or f"{sandbox}/{task.instance_id}.progress"
    variables.setdefault(_PROGRESS_FILE, progress)
    variables.setdefault(variables.get(_PROGRESS_VARIABLE, _PROGRESS_FILE), progress)
    variables["COOK_JOB_UUID"] = task.job_id
    variables["COOK_INSTANCE_UUID"] = task.instance_id
    variables["COOK_INSTANCE_NUM"] = str(task.attempt)
    variables["COOK_JOB_CPUS"] = str(float(task.cpus))
    variables["COOK_JOB_MEM_MB"] = str(float(task.mem_mb))
    variables.pop("COOK_JOB_GPUS", None)
    if task.gpus:
        variables["COOK_JOB_GPUS"] = f"{task.gpus:g}"
    variables.pop("COOK_JOB_GROUP_UUID", None)
    if task.group is not None:
        variables["COOK_JOB_GROUP_UUID"] = task.group
    for number, port in enumerate(task.ports):
        variables[f"PORT{number}"] = str(port)
    variables["MESOS_SANDBOX"] = variables["MESOS_DIRECTORY"] = sandbox
    if task.python is None:
        variables["HOME"] = sandbox
    return variables


def import_environment(env: Mapping[str, str], *, cpus: float) -> str:
    """Return a digest of the variables that a package may read only while it is imported.

    A numerical library creates its threads then, matplotlib chooses its backend, and so on: another value
    would have no effect in a worker that has imported the package.

    Args:
        env: variables of the job; those of the call itself are ignored.
        cpus: cpus of the job, which determine the numbers of threads.
    """
    job_variables = [item for item in env.items() if not item[0].startswith("COOK_")]
    return f"{max(1, int(cpus))}" + (
        f"-{zlib.crc32(repr(sorted(job_variables)).encode()):x}" if job_variables else ""
    )


def progress_path(variables: Mapping[str, str], sandbox: str) -> str:
    """Return the path of a task's progress file, in the way of Cook's executor."""
    return os.path.join(sandbox, variables[variables.get(_PROGRESS_VARIABLE, _PROGRESS_FILE)])


def _progress_file_variables(progress_file: str | None) -> dict[str, str]:
    """Return the variables that name a progress file; none for the default."""
    if progress_file is None:
        return {}
    name = "EXECUTOR_PROGRESS_OUTPUT_FILE_NAME"
    return {_PROGRESS_VARIABLE: name, name: progress_file}
