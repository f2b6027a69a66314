"""Options of a Mesos cluster.

Lives here: `MesosOptions`. Not here: how an operator sets them (`service.settings`).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class MesosOptions:
    """A cluster of Apache Mesos.

    Attributes:
        name: name of the cluster in instances. Keep it: instances are found again by it.
        master: addresses of the masters, `host:port` separated by commas, or `zk://host:port,.../path`. The
            default port is 5050.
        framework_name: name of the framework in Mesos.
        role: role for which resources are requested.
        principal: principal with which the framework authenticates; "" for no authentication.
        secret_file: file with the secret of the principal.
        ca_file: file with the certificates to verify masters and agents with; "" for plain HTTP.
        certificate_file: file with the certificate of the scheduler and its key, for masters and agents that
            ask for one; only with `ca_file`.
        connection: implementation of the connection to the masters: `http`, or `pymesos`, which lacks some
            features.
        failover_timeout_s: time for which Mesos keeps the framework and its tasks without a scheduler.
        run_as: user that runs the jobs on the hosts; "" for the owner of each job.
        pools: pools that hosts serve; all pools if empty.
        pool_attribute: attribute of agents with the name of their only pool; other agents serve `pools`.
        gpus: whether gpus are offered to jobs. Only then does Mesos offer agents with gpus.
        max_held: largest part of the agents whose offers are kept for later jobs while other frameworks use
            the cluster; from 0 to 1. Without other frameworks all are kept.
        hold_s: time for which further offers are kept before they are given back.
        decline_s: time for which Mesos does not repeat an offer that was given back.
        executor_python: Python on the hosts that runs the executor.
        executor_package: absolute path or URL, on the agents, of the file that `cook-jupyter mesos package`
            writes; "" if `executor_python` has cook_jupyter.
        executor_idle_s: time without work after which an executor exits.
        max_tasks_per_executor: largest number of tasks in one executor.
        kill_grace_s: time between SIGTERM and SIGKILL when an instance is stopped.
        partition_policy: what happens to the instances of an unreachable agent: `wait` starts them elsewhere
            after `partition_wait_s`, `rerun_now` at once, `never` waits until the agent is back or removed.
        partition_wait_s: see `partition_policy`. For `rerun_now` and `wait` it is also the time after which
            an executor that hears of no scheduler ends its tasks.
    """

    name: str = "mesos"
    master: str = ""
    framework_name: str = "cook_jupyter"
    role: str = "*"
    principal: str = ""
    secret_file: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    connection: Literal["http", "pymesos"] = "http"
    failover_timeout_s: float = 604_800.0
    run_as: str = ""
    pools: tuple[str, ...] = ()
    pool_attribute: str = "cook-pool"
    gpus: bool = False
    max_held: float = 0.5
    hold_s: float = 5.0
    decline_s: float = 60.0
    executor_python: str = "python3"
    executor_package: str = ""
    executor_idle_s: float = 600.0
    max_tasks_per_executor: int = 100
    kill_grace_s: float = 5.0
    partition_policy: Literal["wait", "rerun_now", "never"] = "wait"
    partition_wait_s: float = 600.0
