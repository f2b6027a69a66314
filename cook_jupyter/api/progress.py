"""How far instances are, as they tell it: POST /progress/TASK; needs no login.

Source: the REST specification, section 15.
"""

from msgspec import UNSET

from cook_jupyter.api.handler import CookHandler
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.instance import ProgressUpdate
from cook_jupyter.wire.verbs import read_progress


class ProgressHandler(CookHandler):
    """POST /progress/TASK."""

    needs_login = False

    async def post(self, task_id: str) -> None:
        """Note progress; a sequence that is not above the last one is taken and ignored."""
        sent = read_progress(self.json_body())
        if sent.progress_percent is UNSET and sent.progress_message is UNSET:
            raise InvalidRequest("progress_percent or progress_message is needed")
        job = await self.one_parent(task_id)
        instance_id = task_id.lower()
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
