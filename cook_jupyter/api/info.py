"""Information about the scheduler, and its shutdown.

Lives here: /info, /settings, /failure_reasons, /metrics, /debug, /v1/info, /v1/summary, /v1/shutdown.

Source: the REST specification, sections 15 and 21.
"""

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import Forbidden
from cook_jupyter.model.reason import REASONS
from cook_jupyter.model.resources import Resources
from cook_jupyter.service.scheduler import Scheduler
from cook_jupyter.service.settings.schema import PROGRESS_PUBLISH_MS, PROGRESS_REGEX, RUNTIME_CHECK_MS
from cook_jupyter.service.settings.tables import Bucket
from cook_jupyter.wire.actions import Shutdown, read_shutdown
from cook_jupyter.wire.jobs import NO_FRAMEWORK

MESOS_FACTORY = "cook.mesos.mesos-compute-cluster/factory-fn"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MILLISECONDS_PER_HOUR = 3_600_000


class InfoHandler(CookHandler):
    """GET /info, which needs no login."""

    needs_login = False

    async def get(self) -> None:
        """Return the version, the start time and the authentication scheme of the scheduler."""
        started = datetime.fromtimestamp(self.scheduler.started_ms / 1000, UTC)
        self.send_json(
            {
                "authentication-scheme": self.context.authenticator.scheme,
                "commit": "unknown",
                "start-time": started.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "version": package_version(),
                "leader-url": f"{self.request.protocol}://{self.request.host}",
            }
        )


class SettingsHandler(CookHandler):
    """GET /settings."""

    async def get(self) -> None:
        """Return the settings of the scheduler under Cook's names."""
        self.send_json(settings_body(self.scheduler))


class FailureReasonsHandler(CookHandler):
    """GET /failure_reasons."""

    async def get(self) -> None:
        """Return all reasons for the end of an instance."""
        self.send_json(
            [
                {
                    "code": reason.code,
                    "name": reason.name,
                    "description": reason.sentence,
                    "mea_culpa": reason.mea_culpa,
                }
                | (
                    {"failure_limit": self.context.settings.jobs.free_failures.limit_of(reason)}
                    if reason.mea_culpa
                    else {}
                )
                for reason in REASONS.values()
            ]
        )


class MetricsHandler(CookHandler):
    """GET /metrics, which needs no login."""

    needs_login = False

    async def get(self) -> None:
        """Return the numbers of jobs and users, the capacity and the usage in Prometheus's format."""
        registry = CollectorRegistry()
        registry.register(SchedulerCollector(self.scheduler))
        self.set_header("Content-Type", METRICS_TYPE)
        self.finish(generate_latest(registry))


class DebugHandler(CookHandler):
    """GET /debug, which needs no login."""

    needs_login = False

    async def get(self) -> None:
        """Return OK, as a sign that the scheduler is up."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("OK")


class SchedulerInfoHandler(CookHandler):
    """GET /v1/info."""

    async def get(self) -> None:
        """Return what a client of cook_jupyter needs first: version, user, store, capacity and limits."""
        settings, blobs = self.context.settings, self.scheduler.blobs
        hosts = {(offer.cluster, offer.host): offer.room for offer in self.scheduler.capacity()}
        total = sum(hosts.values(), Resources())
        self.send_json(
            {
                "name": "cook_jupyter",
                "version": package_version(),
                "user": self.identity.user,
                "pid": os.getpid(),
                "time_ms": self.scheduler.clock.now_ms(),
                "store": self.scheduler.store_id,
                "synchronous": settings.store.synchronous,
                "blobs": str(self.scheduler.home.blobs),
                "blob_store": {"url": blobs.url, "identity": await asyncio.to_thread(blobs.identity)},
                "home": str(self.scheduler.home.root),
                "capacity": {
                    "cpus": total.cpus,
                    "mem": total.mem_mb,
                    "gpus": total.gpus,
                    "hosts": len(hosts),
                },
                "limits": {
                    "body_bytes": settings.server.body_bytes,
                    "inline_result_bytes": settings.server.inline_result_bytes,
                    "jobs_per_submission": settings.server.jobs_per_submission,
                },
            }
        )


class SummaryHandler(CookHandler):
    """GET /v1/summary."""

    async def get(self) -> None:
        """Return the waiting and running jobs of each user, the capacity and the usage."""
        self.send_json({"user": self.identity.user, **self.scheduler.summary()})


class ShutdownHandler(CookHandler):
    """POST /v1/shutdown."""

    async def post(self) -> None:
        """Shut the scheduler down; running jobs continue unless `stop_agent` is set."""
        body = read_shutdown(self.json_body()) if self.request.body else Shutdown()
        if not self.identity.is_owner:
            raise Forbidden("You are not authorized to end this scheduler: that is for its owner")
        self.scheduler.request_shutdown(stop_agent=body.stop_agent)
        self.send_json({"message": "the scheduler ends"}, 202)


class SchedulerCollector(Collector):
    """The state of a scheduler as gauges."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the current gauges."""
        summary = self._scheduler.summary()
        jobs = GaugeMetricFamily("cook_jobs", "Jobs of a user in a state.", labels=["user", "state"])
        for row in summary["users"]:
            jobs.add_metric([row["user"], "waiting"], row["waiting"])
            jobs.add_metric([row["user"], "running"], row["running"])
        yield jobs
        users = GaugeMetricFamily(
            "cook_users", "Users of a pool or quota group in a state.", labels=["pool", "state"]
        )
        for pool, states in summary["monitor"].items():
            for state, number in states.items():
                users.add_metric([pool, state], number)
        yield users
        for name, text in (("capacity", "What the hosts have."), ("used", "What running jobs hold.")):
            gauge = GaugeMetricFamily(f"cook_{name}", text, labels=["resource"])
            for resource, amount in summary[name].items():
                gauge.add_metric([resource], amount)
            yield gauge


def settings_body(scheduler: Scheduler) -> dict[str, Any]:
    """Encode settings as Cook does; settings that do not exist here are empty or null."""
    settings, rebalancer = scheduler.settings, scheduler.rebalancer.settings
    parameters = scheduler.rebalancer.parameters
    jobs, rates, runtime_ms = settings.jobs, settings.rates, settings.jobs.max_runtime_ms
    return {
        "authorization": {},
        "cors-origins": settings.server.cors_origins,
        "compute-clusters": [
            {
                "factory-fn": MESOS_FACTORY,
                "config": {"compute-cluster-name": name, "framework-id": NO_FRAMEWORK, "name": name},
            }
            for name in scheduler.clusters
        ],
        "executor": {
            "command": "cook-jupyter-agent",
            "default-progress-regex-string": PROGRESS_REGEX,
            "environment": {},
        },
        "mea-culpa-failure-limit": {
            "default": jobs.mea_culpa_limit,
            **jobs.mea_culpa_limits,
        },
        "mesos-gpu-enabled": False,
        "plugins": {
            "job-launch-filter": {"factory-fn": settings.placement.launch_filter}
            if settings.placement.launch_filter
            else {},
            "job-submission-validator": {},
        },
        "pools": {
            "default": settings.default_pool,
            "disk": [],
            "valid-gpu-models": [],
            "default-containers": [],
            "quotas": [
                {
                    "pool-regex": quota.pool_regex,
                    "quota": {
                        "count": quota.count,
                        "cpus": quota.cpus,
                        "gpus": quota.gpus,
                        "mem": quota.mem,
                    },
                }
                for quota in settings.pool_quotas
            ],
            "quota-grouping": dict(settings.quota_groups),
        },
        "progress": {"publish-interval-ms": PROGRESS_PUBLISH_MS},
        "queue-limits": {
            "per-pool": [
                {
                    "pool-regex": limit.pool_regex,
                    "pool-global-threshold": limit.pool_global_threshold,
                    "user-limit-normal": limit.user_limit_normal,
                    "user-limit-constrained": limit.user_limit_constrained,
                }
                for limit in settings.queue_limits
            ]
        },
        "rate-limit": {
            "job-submission": _bucket(rates.job_submission),
            "per-user-per-pool-job-launch": {"enforce?": rates.enforce_launch_rate},
            "compute-cluster-launch": _bucket(rates.cluster_launch),
        },
        # Without max-preemption, a client knows that nothing is ever preempted.
        "rebalancer": {"interval-seconds": rebalancer.interval_ms / 1000}
        | (
            {
                "max-preemption": parameters["max_preemption"],
                "min-dru-diff": parameters["min_dru_diff"],
                "pool-regex": rebalancer.pool_regex,
                "safe-dru-threshold": parameters["safe_dru_threshold"],
            }
            if rebalancer.enabled and parameters["max_preemption"] is not None
            else {}
        ),
        "scheduler": {
            "scaleback": settings.matching.scaleback,
            "good-enough-fitness": settings.matching.good_enough,
        },
        "server-https-port": None,
        "task-constraints": {
            "command-length-limit": jobs.command_length_limit,
            "cpus": jobs.max_cpus,
            "max-ports": jobs.max_ports,
            "memory-gb": jobs.max_mem_mb / 1024,
            "retry-limit": jobs.retry_limit,
            "timeout-hours": None if runtime_ms is None else runtime_ms / MILLISECONDS_PER_HOUR,
            "timeout-interval-minutes": RUNTIME_CHECK_MS / 60_000,
        },
    }


def _bucket(bucket: Bucket | None) -> dict[str, Any] | None:
    if bucket is None:
        return None
    return {
        "bucket-size": bucket.bucket_size,
        "tokens-replenished-per-minute": bucket.tokens_per_minute,
        "enforce?": bucket.enforce,
    }


@cache
def package_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("cook_jupyter")
    except PackageNotFoundError:
        return "unknown"
