"""Shares, quotas and usage in Cook's JSON.

Lives here: the bodies of /share, /quota and /usage.
Not here: which limit applies to a user (`service.state.limits`).

Source: the REST specification, sections 11 and 12.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol

from msgspec import UNSET, Meta, UnsetType

from cook_jupyter.model.job import Group, GroupId, JobId
from cook_jupyter.model.limits import QUOTA_NAMES, UNLIMITED_COUNT, LimitName
from cook_jupyter.model.pool import PoolName
from cook_jupyter.wire.validation import BodyDecoder, StrictStruct

Limit = Annotated[float, Meta(ge=0)]
LimitCount = Annotated[int, Meta(ge=0, le=UNLIMITED_COUNT)]


class ShareValues(StrictStruct):
    """Amounts of a share; omitted ones do not change."""

    cpus: Limit | UnsetType = UNSET
    mem: Limit | UnsetType = UNSET
    gpus: Limit | UnsetType = UNSET


class QuotaValues(StrictStruct, rename="kebab"):
    """Amounts of a quota; omitted ones do not change."""

    cpus: Limit | UnsetType = UNSET
    mem: Limit | UnsetType = UNSET
    gpus: Limit | UnsetType = UNSET
    count: LimitCount | UnsetType = UNSET
    launch_rate_saved: Limit | UnsetType = UNSET
    launch_rate_per_minute: Limit | UnsetType = UNSET


class SetShare(StrictStruct):
    """The body of POST /share."""

    user: str
    reason: str
    share: ShareValues
    pool: PoolName | UnsetType = UNSET


class SetQuota(StrictStruct):
    """The body of POST /quota."""

    user: str
    reason: str
    quota: QuotaValues
    pool: PoolName | UnsetType = UNSET


read_set_share = BodyDecoder(SetShare).read
read_set_quota = BodyDecoder(SetQuota).read


def amounts_of(values: ShareValues | QuotaValues) -> dict[LimitName, float]:
    """Return the amounts that were sent, by Cook's names."""
    values_by_name = ((name, getattr(values, name.replace("-", "_"), UNSET)) for name in QUOTA_NAMES)
    return {name: value for name, value in values_by_name if value is not UNSET}


def encode_limit(amounts: Mapping[LimitName, float]) -> dict[str, Any]:
    """Encode the amounts in force; a count is an integer, all others are doubles."""
    return {name: int(amount) if name == "count" else float(amount) for name, amount in amounts.items()}


class RunningUsage(Protocol):
    """The resources that a running job holds."""

    @property
    def job_id(self) -> JobId:
        """Id of the job."""

    @property
    def group(self) -> GroupId | None:
        """Group of the job, if it has one."""

    @property
    def cpus(self) -> float:
        """Cpus that the job holds."""

    @property
    def mem_mb(self) -> float:
        """Memory that the job holds, in MiB."""

    @property
    def gpus(self) -> float:
        """Gpus that the job holds."""


def encode_usage(rows: Sequence[RunningUsage], groups: Mapping[GroupId, Group] | None) -> dict[str, Any]:
    """Encode the usage of running jobs, broken down by group if `groups` is given."""
    body: dict[str, Any] = {"total_usage": _sum(rows)}
    if groups is not None:
        by_group: dict[GroupId, list[RunningUsage]] = {}
        ungrouped: list[RunningUsage] = []
        for row in rows:
            if row.group is None:
                ungrouped.append(row)
            else:
                by_group.setdefault(row.group, []).append(row)
        body["grouped"] = [
            {
                "group": {
                    "uuid": group_id,
                    "name": groups[group_id].name,
                    "running_jobs": [row.job_id for row in members],
                },
                "usage": _sum(members),
            }
            for group_id, members in by_group.items()
            if group_id in groups
        ]
        body["ungrouped"] = {"running_jobs": [row.job_id for row in ungrouped], "usage": _sum(ungrouped)}
    return body


def _sum(rows: Iterable[RunningUsage]) -> dict[str, float]:
    """Add doubles one by one from 0.0, because Cook's tests compare the sums exactly."""
    cpus = mem = gpus = 0.0
    jobs = 0
    for row in rows:
        cpus += row.cpus
        mem += row.mem_mb
        gpus += row.gpus
        jobs += 1
    return {"cpus": cpus, "mem": mem, "gpus": gpus, "jobs": jobs}
