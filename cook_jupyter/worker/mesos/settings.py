"""What Mesos tells an executor through its environment.

Lives here: `MesosSettings`, read from the variables that an agent sets.
Not here: the options of our executor (`worker.mesos.messages`).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "secs": 1.0,
    "mins": 60.0,
    "hrs": 3600.0,
    "days": 86400.0,
    "weeks": 604800.0,
}
_DURATION = re.compile(rf"([0-9.]+(?:e[+-]?[0-9]+)?)({'|'.join(_SECONDS)})")


class MesosSettings(NamedTuple):
    """An executor's settings, as its agent states them.

    Attributes:
        host, port: address of the agent.
        framework_id: id of the framework.
        executor_id: id of the executor.
        sandbox: directory of this run of the executor.
        checkpoint: whether the agent takes the executor back when it restarts.
        recovery_timeout_s: time after which the agent no longer does so.
        backoff_max_s: maximum time between two attempts to subscribe.
        shutdown_grace_s: time between SHUTDOWN and SIGKILL.
        token: token that the agent requires, if it authenticates executors.
    """

    host: str
    port: int
    framework_id: str
    executor_id: str
    sandbox: str
    checkpoint: bool = True
    recovery_timeout_s: float = 900.0
    backoff_max_s: float = 2.0
    shutdown_grace_s: float = 5.0
    token: str | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings in environment variables.

        Raises:
            ValueError: a variable is missing or invalid.
        """
        host, _, port = _required(environ, "MESOS_AGENT_ENDPOINT").rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(
                f"MESOS_AGENT_ENDPOINT is {environ['MESOS_AGENT_ENDPOINT']!r} instead of host:port"
            )
        defaults = cls._field_defaults
        return cls(
            host=host.strip("[]"),
            port=int(port),
            framework_id=_required(environ, "MESOS_FRAMEWORK_ID"),
            executor_id=_required(environ, "MESOS_EXECUTOR_ID"),
            sandbox=_required(environ, "MESOS_SANDBOX", "MESOS_DIRECTORY"),
            checkpoint=environ.get("MESOS_CHECKPOINT", "1") == "1",
            recovery_timeout_s=_seconds(environ, "RECOVERY_TIMEOUT", defaults["recovery_timeout_s"]),
            backoff_max_s=_seconds(environ, "SUBSCRIPTION_BACKOFF_MAX", defaults["backoff_max_s"]),
            shutdown_grace_s=_seconds(
                environ, "EXECUTOR_SHUTDOWN_GRACE_PERIOD", defaults["shutdown_grace_s"]
            ),
            token=environ.get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN") or None,
        )


def seconds(duration: str) -> float:
    """Return a duration as Mesos writes it, such as `15mins`, in seconds.

    Raises:
        ValueError: it is not a duration.
    """
    match = _DURATION.fullmatch(duration.strip())
    if match is None:
        raise ValueError(f"{duration!r} is not a duration of Mesos, such as 15mins or 2secs")
    return float(match[1]) * _SECONDS[match[2]]


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(f"MESOS_{name}")
    return default if text is None else seconds(text)


def _required(environ: Mapping[str, str], *names: str) -> str:
    for name in names:
        if value := environ.get(name):
            return value
    raise ValueError(f"{names[0]} is not set: only an agent of Mesos can start this executor")
