"""Calls whose function no host could read: the function is sent again, and the call runs again.

Lives here: `UnreadFunctions`, which puts back the blob of a function that was damaged or removed while calls
waited for a host, and gives each of those calls back the attempt that it lost.
Not here: blobs that are found damaged when a function is submitted (`executor.session`), which pickles are
kept (`executor.functions`).

A host signs into the result that it could not read the function, which it finds out before code of the user
runs: so an attempt that ended in this way never began.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from cook_jupyter.errors import CookError

if TYPE_CHECKING:
    from cook_jupyter.executor.functions import SentFunctions
    from cook_jupyter.executor.future import CookFuture
    from cook_jupyter.executor.session import Session
    from cook_jupyter.payload.outgoing import FunctionBlob

logger = logging.getLogger("cook_jupyter.executor")

MAX_SENT_AGAIN = 5  # times for one call: a store that loses a blob so often would lose it for ever


class UnreadFunctions:
    """Sends functions again that a host could not read.

    Args:
        session: the session that sent the calls.
        functions: the functions that it sent last.
    """

    def __init__(self, session: Session, functions: SentFunctions) -> None:
        self._session = session
        self._functions = functions

    def run_again(
        self, future: CookFuture, instance_id: str, digest: str, give_up: Callable[[], object]
    ) -> bool:
        """Send the function of a failed call again and let the call run again, if that is possible.

        Args:
            future: the future of the call.
            instance_id: the instance that could not read the function.
            digest: the SHA-256 of the function.
            give_up: called if the scheduler does not take the request.

        Returns:
            Whether the call runs again, or `give_up` will be called; if not, nothing will happen.
        """
        if instance_id in future.unread:  # heard of before, through another event
            return True
        blob = self._functions.blob(digest)
        if blob is None or len(future.unread) >= MAX_SENT_AGAIN:
            return False
        future.unread.add(instance_id)
        self._session.run_in_background(lambda: self._send_again(future, blob, give_up))
        return True

    def _send_again(self, future: CookFuture, blob: FunctionBlob, give_up: Callable[[], object]) -> None:
        session = self._session
        try:
            session.store.put(blob.name, blob.pieces)
            if future.done():  # cancelled meanwhile
                return
            session.ask(lambda client: client.retry(future.key, increment=1))
            if future.done():
                session.ask(lambda client: client.kill([future.key]))
        except (CookError, OSError) as error:
            logger.warning("The function of job %s could not be sent again: %s", future.key, error)
            give_up()
        else:
            logger.info(
                "the function of job %s was damaged or removed in %s while the job waited; it was sent again",
                future.key,
                session.store.url,
            )
