"""Shares, quotas and usage: /share, /quota, /usage.

Source: the REST specification, sections 11 and 12.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import Group, GroupId
from cook_jupyter.model.limits import LimitKind, LimitName
from cook_jupyter.model.pool import PoolName
from cook_jupyter.service.state.running_jobs import RunningJob
from cook_jupyter.wire.limits import amounts_of, encode_limit, encode_usage, read_set_quota, read_set_share


class LimitHandler(CookHandler):
    """Base class of the handlers of /share and /quota."""

    impersonable = frozenset({"GET"})
    kind: ClassVar[str]

    async def get(self) -> None:
        """Return a user's current limits in one pool, or in the default pool and in each pool."""
        user = self.required("user")
        await self._send(user, self.requested_pool())

    async def delete(self) -> None:
        """Remove the limits of a user in a pool; the defaults apply again."""
        user, _reason = self.required("user"), self.required("reason")
        pool = self.requested_pool()
        self._require_pool(pool)
        self.require_admin(f"retract a {self.kind}")
        await self.scheduler.retract_limits(self.kind, user, pool or self.scheduler.default_pool)
        self.send_empty()

    async def set_limits(
        self, user: str, body_pool: PoolName | UnsetType, amounts: Mapping[LimitName, float], reason: str
    ) -> None:
        """Set some limits of a user, and send all limits of the user as the response."""
        pool = self.requested_pool(None if body_pool is UNSET else body_pool)
        self._require_pool(pool)
        if not user:
            raise InvalidRequest("the user has no name")
        self.require_admin(f"set a {self.kind}")
        await self.scheduler.set_limits(self.kind, user, pool or self.scheduler.default_pool, amounts, reason)
        await self._send(user, pool, status=201)

    async def _send(self, user: str, pool: PoolName | None, *, status: int = 200) -> None:
        self._require_pool(pool)
        body = await self._amounts(user, pool or self.scheduler.default_pool)
        if pool is None:
            body["pools"] = {
                each_pool.name: await self._amounts(user, each_pool.name)
                for each_pool in self.scheduler.pools()
            }
        self.send_json(body, status)

    async def _amounts(self, user: str, pool: PoolName) -> dict[str, Any]:
        return encode_limit(await self.scheduler.limits_of(self.kind, user, pool))

    def _require_pool(self, pool: PoolName | None) -> None:
        if pool is not None and pool not in {each.name for each in self.scheduler.pools()}:
            raise InvalidRequest(f"{pool} is not a valid pool name.")


class ShareHandler(LimitHandler):
    """GET, POST and DELETE /share."""

    kind = LimitKind.SHARE

    async def post(self) -> None:
        """Set some amounts of the share of a user."""
        body = read_set_share(self.json_body())
        await self.set_limits(body.user, body.pool, amounts_of(body.share), body.reason)


class QuotaHandler(LimitHandler):
    """GET, POST and DELETE /quota."""

    kind = LimitKind.QUOTA

    async def post(self) -> None:
        """Set some amounts of the quota of a user."""
        body = read_set_quota(self.json_body())
        await self.set_limits(body.user, body.pool, amounts_of(body.quota), body.reason)


class UsageHandler(CookHandler):
    """GET /usage."""

    impersonable = frozenset({"GET"})

    async def get(self) -> None:
        """Return the resources that the running jobs of a user hold, or those of every user."""
        user, pool = self.param("user"), self.requested_pool()
        rows = [row for row in self.scheduler.running_jobs(user) if pool is None or row.pool == pool]
        groups: dict[GroupId, Group] | None = None
        if self.flag("group_breakdown"):
            group_ids = list(dict.fromkeys(row.group for row in rows if row.group is not None))
            groups = await self.groups_by_id(group_ids)
        if user is not None:
            self.send_json(self._usage(rows, pool, groups))
            return
        by_user: dict[str, list[RunningJob]] = {}
        for row in rows:
            by_user.setdefault(row.user, []).append(row)
        self.send_json(
            {
                "users": {
                    user_name: self._usage(user_rows, pool, groups)
                    for user_name, user_rows in by_user.items()
                }
            }
        )

    def _usage(
        self, rows: Sequence[RunningJob], pool: PoolName | None, groups: Mapping[GroupId, Group] | None
    ) -> dict[str, Any]:
        body = encode_usage(rows, groups)
        if pool is None:
            body["pools"] = {
                each_pool.name: encode_usage([row for row in rows if row.pool == each_pool.name], groups)
                for each_pool in self.scheduler.pools()
            }
        return body
