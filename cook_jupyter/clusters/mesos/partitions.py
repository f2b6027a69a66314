"""Instances whose agent cannot be reached: how long they are waited for.

Lives here: `Partitions`. Not here: which states of Mesos mean that (`clusters.mesos.statuses`).

The instance may still run, and come back with its agent. So its job waits, depending on its partition policy,
before it is started elsewhere; the instance is killed if it comes back later. The executor ends its tasks
when it hears of no scheduler for as long (`worker.mesos`).
"""

from collections.abc import Collection
from typing import Final

from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobSpec

LABEL: Final = "cook-partition-policy"  # of a job: the policy that applies instead of the cluster's
WAIT, RERUN_NOW, NEVER = "wait", "rerun_now", "never"
_MANY_HOSTS: Final = 10  # with fewer, a part of them says nothing
_LARGEST_PART: Final = 0.3  # of hosts; beyond it the fault is elsewhere, and nothing is given up


class Partitions:
    """The unreachable instances of a cluster.

    Args:
        options: options of the cluster.
    """

    def __init__(self, options: MesosOptions) -> None:
        self._options = options
        self._since_s: dict[InstanceId, tuple[float, str, str]] = {}  # -> (time, host, policy)

    def add(self, instance_id: InstanceId, host: str, spec: JobSpec | None, now_s: float) -> None:
        """Note that an instance cannot be reached; the first time counts."""
        policy = self._options.partition_policy if spec is None else policy_of(spec, self._options)
        self._since_s.setdefault(instance_id, (now_s, host, policy))

    def remove(self, instance_id: InstanceId) -> None:
        """Note that an instance is known again, or has ended."""
        self._since_s.pop(instance_id, None)

    def __contains__(self, instance_id: object) -> bool:
        return instance_id in self._since_s

    @property
    def hosts(self) -> Collection[str]:
        """The hosts with unreachable instances."""
        return {host for _, host, _ in self._since_s.values()}

    def pop_expired(self, now_s: float, host_count: int) -> list[InstanceId]:
        """Remove and return the instances that are given up.

        Args:
            now_s: monotonic time.
            host_count: number of known hosts.
        """
        if host_count >= _MANY_HOSTS and len(self.hosts) > _LARGEST_PART * host_count:
            return []
        expired = [
            instance_id
            for instance_id, (since_s, _, policy) in self._since_s.items()
            if policy == RERUN_NOW or (policy == WAIT and now_s >= since_s + self._options.partition_wait_s)
        ]
        for instance_id in expired:
            del self._since_s[instance_id]
        return expired


def policy_of(spec: JobSpec, options: MesosOptions) -> str:
    """Return the partition policy of a job; an unknown one in its label counts as that of the cluster."""
    policy = spec.labels.get(LABEL, "")
    return policy if policy in {WAIT, RERUN_NOW, NEVER} else options.partition_policy
