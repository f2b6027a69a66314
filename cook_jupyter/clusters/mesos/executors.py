"""Which executor runs a task, and what Mesos is told about it.

Lives here: `ExecutorTable`. Not here: the executor itself (`worker.mesos`).

There is one executor per user and host, and a further one beyond a number of tasks. An executor id is bound
for ever to the ExecutorInfo that it was first used with: a launch with another one fails. So the id contains
a digest of that, and an id whose executor has ended, or is about to, is never used again.

After a restart of the scheduler, offers and status updates name the executors that are still there.
"""

import hashlib
import json
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from cook_jupyter.clusters.mesos.messages import ExecutorId, JsonObject
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.worker.mesos.messages import ExecutorOptions, executor_command

PREFIX: Final = "cook-"
_SHUTDOWN_GRACE_S: Final = 30
_SECOND_NS: Final = 1_000_000_000


class ExecutorTable:
    """The executors of one cluster.

    Args:
        options: options of the cluster.
        version: version of the code that the executors run.
    """

    def __init__(self, options: MesosOptions, version: str) -> None:
        self._options = options
        self._template: JsonObject = {
            "type": "CUSTOM",
            "name": "cook_jupyter executor",
            "source": version,
            "shutdown_grace_period": {"nanoseconds": _SHUTDOWN_GRACE_S * _SECOND_NS},
            "command": _command(options),
        }
        digest = hashlib.sha256(json.dumps(self._template, sort_keys=True).encode())
        self._digest = digest.hexdigest()[:10]
        self._by_host: defaultdict[str, dict[ExecutorId, str]] = defaultdict(dict)  # host -> id -> user
        self._ended: set[tuple[str, ExecutorId]] = set()
        self._made: set[tuple[str, ExecutorId]] = set()  # by this scheduler
        self._task_counts: Counter[tuple[str, ExecutorId]] = Counter()

    def choose(self, host: str, user: str) -> ExecutorId:
        """Return the executor for the next task of a user on a host, and count that task."""
        for executor_id, owner in self._by_host[host].items():
            if owner == user and self._task_counts[host, executor_id] < self._options.max_tasks_per_executor:
                break
        else:
            executor_id = ExecutorId(f"{PREFIX}{_plain(user)}-{self._digest}-{secrets.token_hex(3)}")
            self._by_host[host][executor_id] = user
            self._made.add((host, executor_id))
        self._task_counts[host, executor_id] += 1
        return executor_id

    def info(self, executor_id: ExecutorId, user: str, framework_id: str) -> JsonObject:
        """Return the ExecutorInfo of an executor.

        Args:
            executor_id: the executor.
            user: user of the host as whom it runs.
            framework_id: the framework.
        """
        return {
            **self._template,
            "executor_id": {"value": executor_id},
            "framework_id": {"value": framework_id},
            "command": {**self._template["command"], "user": user},
        }

    def task_ended(self, host: str, executor_id: str) -> None:
        """Note that an executor has one task less."""
        key = (host, ExecutorId(executor_id))
        if self._task_counts[key] > 0:
            self._task_counts[key] -= 1

    def note_existing(self, host: str, executor_ids: Iterable[str], users: Iterable[str]) -> None:
        """Use executors that an earlier scheduler has started, if they run the same code.

        Args:
            host: their host.
            executor_ids: executors that the host has.
            users: users of tasks, of whom an executor is recognised by its id, unless all run as the same.
        """
        run_as = self._options.run_as
        plain_names = {_plain(user): user for user in ([run_as] if run_as else users)}
        for executor_id in map(ExecutorId, executor_ids):
            known = self._by_host[host]
            if executor_id in known or (host, executor_id) in self._ended:
                continue
            match = re.fullmatch(rf"{PREFIX}(.*)-{self._digest}-[0-9a-f]+", executor_id)
            if match is not None and match.group(1) in plain_names:
                known[executor_id] = plain_names[match.group(1)]

    def is_made_here(self, host: str, executor_id: str) -> bool:
        """Return whether this scheduler has made the id of an executor that has not ended."""
        return (host, ExecutorId(executor_id)) in self._made

    def end(self, host: str, executor_id: str) -> None:
        """Never use an executor again: it has ended, or was told to."""
        key = (host, ExecutorId(executor_id))
        self._ended.add(key)
        self._made.discard(key)
        self._by_host[host].pop(ExecutorId(executor_id), None)
        self._task_counts.pop(key, None)

    def on_host(self, host: str) -> tuple[ExecutorId, ...]:
        """Return the executors that are used on a host."""
        return tuple(self._by_host[host])

    def all(self) -> list[tuple[str, ExecutorId]]:
        """Return all executors that are used, with their hosts."""
        return [(host, executor_id) for host, ids in self._by_host.items() for executor_id in ids]


def _command(options: MesosOptions) -> JsonObject:
    """Return the CommandInfo of all executors, without the user."""
    package = options.executor_package.rstrip("/").rpartition("/")[2]
    command = executor_command(
        ExecutorOptions(grace_s=options.kill_grace_s, idle_exit_s=options.executor_idle_s),
        python=options.executor_python,
        package=f"./{package}" if package else None,
    )
    uris = [{"value": options.executor_package, "extract": False, "cache": True}] if package else []
    return {"shell": True, "value": command, "uris": uris}


def _plain(user: str) -> str:
    """Return a user name as a part of an executor id, which is also a directory; never two alike."""
    if re.fullmatch(r"[a-z0-9_][a-z0-9_.-]*", user):
        return user
    return f"u{hashlib.sha256(user.encode()).hexdigest()[:12]}"
