"""Options of a call's job.

Lives here: `Options`, checked when they are set, and the job submission that they describe.
Not here: which values count as numbers or strings (`executor.option_values`), calls (`payload.encoding`),
sending (`executor.session`).
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cook_jupyter.client.submission import JobSubmission
from cook_jupyter.errors import InvalidRequest, WrongType
from cook_jupyter.executor.groups import Group, require_uuid
from cook_jupyter.executor.option_values import flag, positive, text, texts, whole
from cook_jupyter.model.job import DEFAULT_PRIORITY, HIGHEST_PRIORITY, PARENT_LABEL

SESSION_LABEL = "cook-jupyter/session"
ENVIRONMENT_VARIABLE = "COOK_JUPYTER_ENVIRONMENT"  # names of variables that jobs see, separated by commas
MAX_VARIABLE_BYTES = 128 * 1024  # of name and value together; the limit of the kernel

_MAX_NAME = 128
_NAME = re.compile(r"[.a-zA-Z0-9_-]*")  # Cook's rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of each job of an executor.

    Attributes:
        cpus: cpus on one host; may be a fraction.
        mem_mb: memory in MiB; a job that uses more is stopped.
        gpus: whole gpus.
        name: name of the jobs; None for the function's.
        pool: pool of the jobs; None for the scheduler's default.
        priority: priority from 0, among the user's own jobs; higher runs first.
        retries: further attempts after a failure of the function; those after failures of the system are
            free.
        env: environment variables, by name.
        environment: names of variables of this process that jobs see with their values at the submission; `*`
            matches any characters. A variable that is not set here is not set there.
        labels: labels to find the jobs by.
        group: `Group` that the jobs join, or its uuid.
        constraints: required values of host attributes, by attribute.
        max_runtime_s: maximum run time; a job that runs longer is stopped.
        expected_runtime_s: expected run time of a job, for backfilling and for hosts of limited lifetime.
        detached: whether jobs continue when this process ends; otherwise they are killed when it exits
            normally.
    """

    cpus: float = 1.0
    mem_mb: float = 1024.0
    gpus: int = 0
    name: str | None = None
    pool: str | None = None
    priority: int = DEFAULT_PRIORITY
    retries: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    environment: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    group: Group | str | None = None
    constraints: Mapping[str, str] = field(default_factory=dict)
    max_runtime_s: float | None = None
    expected_runtime_s: float | None = None
    detached: bool = True

    def __post_init__(self) -> None:
        """Refuse immediately what the scheduler would refuse later."""
        for name in ("cpus", "mem_mb"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        for name in ("max_runtime_s", "expected_runtime_s"):
            if (seconds := getattr(self, name)) is not None:
                object.__setattr__(self, name, positive(name, seconds))
        for name in ("gpus", "retries", "priority"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        if self.priority > HIGHEST_PRIORITY:
            raise InvalidRequest(f"priority must be between 0 and {HIGHEST_PRIORITY}, not {self.priority}")
        self._check_names()
        for name in ("env", "labels", "constraints"):
            object.__setattr__(self, name, texts(name, getattr(self, name)))
        for variable, value in self.env.items():
            _require_variable(variable, value)
        object.__setattr__(self, "environment", variable_names(self.environment))
        if self.group is not None and not isinstance(self.group, Group):
            object.__setattr__(self, "group", require_uuid(self.group))
        object.__setattr__(self, "detached", flag("detached", self.detached))
        self._require_reachable_end()

    def _check_names(self) -> None:
        for name in ("name", "pool"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, text(name, value))
        if self.name is not None:
            _require_name(self.name)
        if self.pool == "":
            raise InvalidRequest("pool must name a pool; omit it for the scheduler's default")

    def _require_reachable_end(self) -> None:
        if (
            self.expected_runtime_s is not None
            and self.max_runtime_s is not None
            and self.expected_runtime_s > self.max_runtime_s
        ):
            raise InvalidRequest(
                f"expected_runtime_s {self.expected_runtime_s:g} is above max_runtime_s "
                f"{self.max_runtime_s:g}, so that no job could end"
            )

    def with_(self, changes: Mapping[str, Any]) -> Options:
        """Return these options with some of them changed.

        Raises:
            InvalidRequest: there is no such option, or its value is invalid.
        """
        if unknown := sorted(set(changes) - set(self.__slots__)):
            raise InvalidRequest(
                f"no such option: {', '.join(unknown)}; the options are {', '.join(self.__slots__)}. "
                "Arguments of the function go to submit()."
            )
        return replace(self, **changes)

    def variables(self) -> Mapping[str, str]:
        """Return the variables of a job: those named in `environment`, with present values, and `env`."""
        if not self.environment:
            return self.env
        exact, pattern = _split_names(self.environment)
        names = [name for name in os.environ if pattern.fullmatch(name)] if pattern is not None else []
        chosen = {name: os.environ[name] for name in (*exact, *names) if name in os.environ}
        return {**chosen, ENVIRONMENT_VARIABLE: ",".join(self.environment), **self.env}

    def job(self, session: str, command: str) -> JobSubmission:
        """Return the part of a submission that is the same for all calls: without uuid, name and env.

        Args:
            session: id of the session, for a label.
            command: command that runs a call on a host.
        """
        return JobSubmission(
            command=command,
            cpus=self.cpus,
            mem_mb=self.mem_mb,
            gpus=self.gpus,
            max_retries=1 + self.retries,
            priority=self.priority,
            max_runtime_ms=_ms(self.max_runtime_s),
            expected_runtime_ms=_ms(self.expected_runtime_s),
            group=self.group.uuid if isinstance(self.group, Group) else self.group,
            constraints=tuple((name, "EQUALS", value) for name, value in self.constraints.items()),
            labels={**self.labels, **parent_label(), SESSION_LABEL: session},
        )


def parent_label() -> dict[str, str]:
    """Return the label that names the job this process belongs to; empty outside of jobs."""
    parent = os.environ.get("COOK_JOB_UUID", "")
    return {PARENT_LABEL: parent} if parent else {}


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's name in the form that Cook accepts: letters, digits, dot, dash and underscore."""
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        name = name_of(function.func) if hasattr(function, "func") else type(function).__name__
    plain = re.sub(r"[^.a-zA-Z0-9_-]+", "", name.replace("<locals>.", ""))
    return plain[-_MAX_NAME:] or "call"


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, int(seconds * 1000))


def _require_name(name: str) -> None:
    """Refuse a name that no job can have.

    Raises:
        InvalidRequest: `name` is too long, or has characters that Cook does not allow.
    """
    if len(name) > _MAX_NAME:
        raise InvalidRequest(
            f"name has {len(name)} characters, and a job's name may have {_MAX_NAME}: {name[:40]!r}..."
        )
    if not _NAME.fullmatch(name):
        invalid = ", ".join(dict.fromkeys(repr(letter) for letter in name if not _NAME.fullmatch(letter)))
        proposal = re.sub(r"[^.a-zA-Z0-9_-]+", "-", name).strip("-")
        such_as = f", such as {proposal!r}" if proposal else ""
        raise InvalidRequest(
            f"name {name!r} contains {invalid}: a job's name has letters a to z and A to Z, digits, dots, "
            f"dashes and underscores{such_as}"
        )


def _require_variable(name: str, value: str) -> None:
    """Refuse an environment variable that cannot be set.

    Raises:
        InvalidRequest: the name is empty or contains `=`, or a part contains a zero byte, cannot be encoded
            as UTF-8, or is too long.
    """
    try:
        size = len(name.encode()) + len(value.encode()) + 2
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"env: the variable {name!r} cannot be written as UTF-8: {error}") from error
    if not name or "=" in name or "\0" in name + value:
        raise InvalidRequest(
            f"env: the variable {name!r} cannot be set: a name must not be empty or contain '=', and neither "
            "name nor value may contain a zero byte"
        )
    if size > MAX_VARIABLE_BYTES:
        raise InvalidRequest(
            f"env: the variable {name!r} has {size} bytes; the limit is {MAX_VARIABLE_BYTES}: put large "
            "data in a file and give the job its name"
        )


@functools.lru_cache(maxsize=64)
def _split_names(names: tuple[str, ...]) -> tuple[tuple[str, ...], re.Pattern[str] | None]:
    """Return the names without `*`, and a pattern that matches those with one."""
    patterns = [name for name in names if "*" in name]
    parts = ("(?:" + ".*".join(map(re.escape, name.split("*"))) + ")" for name in patterns)
    pattern = re.compile("|".join(parts)) if patterns else None
    return tuple(name for name in names if "*" not in name), pattern


def warn_of_unset(names: tuple[str, ...]) -> None:
    """Warn of variables for jobs that are not set in this process, at the line of the user's code.

    Args:
        names: names of variables; one with `*` may match none.
    """
    unset = [name for name in names if "*" not in name and name not in os.environ]
    if unset:
        is_or_are = "is" if len(unset) == 1 else "are"
        warnings.warn(
            f"environment names {', '.join(unset)}, which {is_or_are} not set in this process: jobs will not "
            "see it unless it is set before they are submitted. If it may be missing, write "
            f"{unset[0] + '*'!r}; to set a value for jobs only, use env=",
            stacklevel=3,
        )


def variable_names(names: object) -> tuple[str, ...]:
    """Return names of environment variables; a string has them separated by commas.

    Raises:
        WrongType: `names` are not strings.
        InvalidRequest: a name is invalid.
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    if isinstance(names, Mapping) or not isinstance(names, Iterable):
        raise WrongType(
            f"environment must be names of variables of this process, not {names!r}; to set values, use env="
        )
    valid_names = tuple(names)
    if invalid := [
        name for name in valid_names if not isinstance(name, str) or not name or "=" in name or "\0" in name
    ]:
        raise InvalidRequest(
            f"environment must be names of variables of this process, and {invalid[0]!r} is not one; to set "
            "values, use env="
        )
    return valid_names
