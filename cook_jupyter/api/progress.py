"""How far instances are, as they report it: POST /progress/TASK.

An instance shows its own secret, which it finds in its environment; the owner of its job may report for it.
In Cook nobody needs a login here, so that everybody may write into everybody's jobs.

Source: the REST specification, section 15.
"""

from msgspec import UNSET

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import Forbidden, InvalidRequest
from cook_jupyter.model.instance import ProgressUpdate
from cook_jupyter.wire.verbs import read_progress


class ProgressHandler(CookHandler):
    """POST /progress/TASK."""

    needs_login = False

    async def prepare(self) -> None:
        """Let in the instance itself, and whoever has logged in."""
        await super().prepare()
        self._is_instance = self._shows_secret_of(self.path_args[0].lower())
        if not self._finished and not self._is_instance:
            self.log_in()

    async def post(self, task_id: str) -> None:
        """Note progress; a sequence that is not above the last one is taken and ignored."""
        sent = read_progress(self.json_body())
        if sent.progress_percent is UNSET and sent.progress_message is UNSET:
            raise InvalidRequest("progress_percent or progress_message is needed")
        job = await self.one_parent(task_id)
        instance_id = task_id.lower()
        if not self._is_instance and not self.asker.may_act_on(job.spec.user):
            raise Forbidden(f"You are not authorized to report the progress of instance {instance_id}")
        await self.scheduler.progress(
            [
                ProgressUpdate(
                    instance_id=instance_id,
                    sequence=sent.progress_sequence,
                    percent=None if sent.progress_percent is UNSET else sent.progress_percent,
                    message=None if sent.progress_message is UNSET else sent.progress_message,
                )
            ]
        )
        self.answer({"instance": instance_id, "job": job.job_id, "message": "progress update accepted"}, 202)

    def _shows_secret_of(self, instance_id: str) -> bool:
        kind, _, secret = self.request.headers.get("Authorization", "").partition(" ")
        secrets = self.scheduler.instance_secrets
        return (
            secrets is not None and kind.lower() == "bearer" and secrets.matches(instance_id, secret.strip())
        )
