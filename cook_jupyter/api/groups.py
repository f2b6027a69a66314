"""Groups by HTTP: GET and DELETE /group.

Source: the REST specification, sections 7 and 9.
"""

from collections.abc import Sequence

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.api.jobs import EVERY_VERB
from cook_jupyter.api.query import require_found
from cook_jupyter.errors import Forbidden, InvalidRequest
from cook_jupyter.model.job import Job, JobState
from cook_jupyter.wire.jobs import group_body


class GroupHandler(CookHandler):
    """GET and DELETE /group."""

    impersonable = EVERY_VERB

    async def get(self) -> None:
        """Return the groups named by uuid."""
        ids = self._named()
        groups = await self.groups_by_id(ids)
        if not self.flag("partial"):
            require_found([each for each in ids if each not in groups], "a group")
        detailed = self.flag("detailed")
        told = []
        for group_id in ids:
            if group_id in groups:
                members = await self.scheduler.jobs_of_group(group_id)
                jobs = await self._jobs(members) if detailed else None
                told.append(group_body(groups[group_id], members, jobs))
        self.answer(told)

    async def delete(self) -> None:
        """Kill every unfinished job of the groups."""
        ids = self._named()
        groups = await self.groups_by_id(ids)
        jobs = {each: await self._jobs(await self.scheduler.jobs_of_group(each)) for each in groups}
        foreign = [
            each
            for each, members in jobs.items()
            if members and not self.asker.may_act_on(members[0].spec.user)
        ]
        if foreign:
            raise Forbidden(f"You are not authorized to kill the following groups: {', '.join(foreign)}")
        require_found([each for each in ids if each not in groups], "a group")
        unfinished = [
            job.job_id for members in jobs.values() for job in members if job.state is not JobState.COMPLETED
        ]
        if unfinished:
            await self.scheduler.kill_jobs(unfinished)
        self.answer_empty()

    async def _jobs(self, job_ids: Sequence[str]) -> list[Job]:
        return [job for job in await self.scheduler.jobs(job_ids) if job is not None]

    def _named(self) -> list[str]:
        ids = list(dict.fromkeys(self.uuids("uuid")))
        if not ids:
            raise InvalidRequest("name at least one group: ?uuid=UUID")
        return ids
