"""Groups of jobs: GET and DELETE /group.

Source: the REST specification, sections 7 and 9.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import ALL_METHODS
from cook_jupyter.api.query import require_found
from cook_jupyter.errors import Forbidden, InvalidRequest
from cook_jupyter.model.job import Group, GroupId, JobId, JobState
from cook_jupyter.wire.jobs import GroupBody, encode_group


class GroupHandler(CookHandler):
    """GET and DELETE /group."""

    impersonable = ALL_METHODS

    async def get(self) -> None:
        """Return the groups named by uuid."""
        ids = self._requested_ids()
        groups = await self.groups_by_id(ids)
        if not self.flag("partial"):
            require_found([group_id for group_id in ids if group_id not in groups], "a group")
        detailed = self.flag("detailed")
        await self.send_json_list(
            self._encoded([groups[group_id] for group_id in ids if group_id in groups], detailed)
        )

    async def delete(self) -> None:
        """Kill all unfinished jobs of the groups named by uuid."""
        ids = self._requested_ids()
        groups = await self.groups_by_id(ids)
        unfinished: list[JobId] = []
        foreign: dict[GroupId, None] = {}
        for group_id in groups:
            async for jobs in self.jobs_in_pages(await self.scheduler.jobs_of_group(group_id)):
                if jobs and not self.identity.may_act_on(jobs[0].spec.user):
                    foreign[group_id] = None
                unfinished += [job.job_id for job in jobs if job.state is not JobState.COMPLETED]
        if foreign:
            raise Forbidden(f"You are not authorized to kill the following groups: {', '.join(foreign)}")
        require_found([uuid for uuid in ids if uuid not in groups], "a group")
        if unfinished:
            await self.scheduler.kill_jobs(unfinished)
        self.send_empty()

    async def _encoded(self, groups: Sequence[Group], detailed: bool) -> AsyncIterator[list[GroupBody]]:
        """Encode groups, one at a time."""
        for group in groups:
            members = await self.scheduler.jobs_of_group(group.group_id)
            yield [encode_group(group, members, await self._states(members) if detailed else None)]

    async def _states(self, job_ids: Sequence[JobId]) -> Counter[JobState]:
        """Count jobs by state."""
        states: Counter[JobState] = Counter()
        async for jobs in self.jobs_in_pages(job_ids):
            states.update(job.state for job in jobs)
        return states

    def _requested_ids(self) -> list[GroupId]:
        ids = list(dict.fromkeys(self.uuids("uuid", GroupId)))
        if not ids:
            raise InvalidRequest("name at least one group: ?uuid=UUID")
        return ids
