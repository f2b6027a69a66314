"""Jobs that wait for jobs of their own, by HTTP.

Lives here: /v1/waits. Not here: what follows from it (`service.nested`).
"""

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import Forbidden, InvalidRequest
from cook_jupyter.service.nested import MAX_CHILDREN, find_deadlocked
from cook_jupyter.wire.verbs import read_waits


class WaitsHandler(CookHandler):
    """POST /v1/waits."""

    async def post(self) -> None:
        """Note what a running job waits for; say whether that can never start and this job is to give up."""
        sent = read_waits(self.json_body())
        if len(sent.jobs) > MAX_CHILDREN:
            raise InvalidRequest(
                f"{len(sent.jobs)} jobs are waited for, and at most {MAX_CHILDREN} may be named"
            )
        instance_id = sent.instance.lower()
        job = await self.one_parent(instance_id)
        if not self.asker.may_act_on(job.spec.user):
            raise Forbidden(f"You are not authorized to report for the job {job.job_id}")
        nested = self.scheduler.nested
        nested.report(instance_id, job.job_id, [job_id.lower() for job_id in sent.jobs])
        stuck = await find_deadlocked(self.scheduler) if sent.jobs else ()
        gives_up = bool(stuck) and stuck[0].instance_id == instance_id
        if gives_up:
            nested.report(instance_id, job.job_id, ())
        self.answer({"deadlocked": gives_up, "parents": len(stuck)})
