"""Reports of jobs that wait for their child jobs: /v1/waits.

Not here: the detection of deadlocks (`service.requests.nested_waits`).
"""

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import Forbidden, InvalidRequest
from cook_jupyter.model.instance import InstanceId
from cook_jupyter.model.job import JobId
from cook_jupyter.service.requests.nested_waits import MAX_CHILDREN
from cook_jupyter.wire.actions import read_waits


class WaitsHandler(CookHandler):
    """POST /v1/waits."""

    async def post(self) -> None:
        """Record the children that a running job waits for; reply whether the job must give up."""
        body = read_waits(self.json_body())
        if len(body.jobs) > MAX_CHILDREN:
            raise InvalidRequest(f"a job may wait for at most {MAX_CHILDREN} jobs, not {len(body.jobs)}")
        instance_id = InstanceId(body.instance.lower())
        job = await self.require_job_of_instance(instance_id)
        if not self.identity.may_act_on(job.spec.user):
            raise Forbidden(f"You are not authorized to report for the job {job.job_id}")
        nested = self.scheduler.nested
        nested.report(instance_id, job.job_id, [JobId(uuid.lower()) for uuid in body.jobs])
        deadlocked = await nested.find_deadlocked() if body.jobs else ()
        must_give_up = bool(deadlocked) and deadlocked[0].instance_id == instance_id
        if must_give_up:
            nested.report(instance_id, job.job_id, ())
        self.send_json({"deadlocked": must_give_up, "parents": len(deadlocked)})
