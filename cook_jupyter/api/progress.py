"""Progress reports of instances: POST /progress/TASK.

An instance authenticates with its own secret, which is in its environment; the owner of its job may report
for it. Cook requires no login here, so in Cook anyone can change the progress of any job.

Source: the REST specification, section 15.
"""

from msgspec import UNSET

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import Forbidden, InvalidRequest
from cook_jupyter.model.instance import InstanceId, ProgressUpdate
from cook_jupyter.wire.actions import read_progress


class ProgressHandler(CookHandler):
    """POST /progress/TASK."""

    needs_login = False

    async def prepare(self) -> None:
        """Accept the secret of the instance in place of a login."""
        await super().prepare()
        self._is_instance = self._has_secret_of(InstanceId(self.path_args[0].lower()))
        if not self._finished and not self._is_instance:
            self.log_in()

    async def post(self, task_id: str) -> None:
        """Record progress; a sequence number not above the last one is accepted and ignored."""
        body = read_progress(self.json_body())
        if body.progress_percent is UNSET and body.progress_message is UNSET:
            raise InvalidRequest("progress_percent or progress_message is needed")
        job = await self.require_job_of_instance(task_id)
        instance_id = InstanceId(task_id.lower())
        if not self._is_instance and not self.identity.may_act_on(job.spec.user):
            raise Forbidden(f"You are not authorized to report the progress of instance {instance_id}")
        await self.scheduler.progress(
            [
                ProgressUpdate(
                    instance_id=instance_id,
                    sequence=body.progress_sequence,
                    percent=None if body.progress_percent is UNSET else body.progress_percent,
                    message=None if body.progress_message is UNSET else body.progress_message,
                )
            ]
        )
        self.send_json(
            {"instance": instance_id, "job": job.job_id, "message": "progress update accepted"}, 202
        )

    def _has_secret_of(self, instance_id: InstanceId) -> bool:
        kind, _, secret = self.request.headers.get("Authorization", "").partition(" ")
        secrets = self.scheduler.instance_secrets
        return (
            secrets is not None and kind.lower() == "bearer" and secrets.matches(instance_id, secret.strip())
        )
