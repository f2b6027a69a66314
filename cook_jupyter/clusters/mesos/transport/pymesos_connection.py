"""The connection to the leading master over pymesos, instead of our own HTTP.

Lives here: `PymesosSchedulerConnection`, and what one subscription consists of.
Not here: when to subscribe (`clusters.mesos.transport.subscription`), the leader
(`clusters.mesos.transport.leader`), the driver with its dangers removed
(`clusters.mesos.transport.pymesos_driver`), the parser that pymesos needs
(`clusters.mesos.transport.pymesos_parser`). What this connection cannot do that ours can:
docs/reference/mesos-connections.md.

A driver of pymesos reads events in a thread and sends calls in the thread of the caller. Here it lives for
one subscription, so that pauses, redirects and leaders are ours.
"""

import asyncio
import concurrent.futures
import contextlib
import http.client
import logging
import random
import re
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from cook_jupyter.clusters.mesos.messages import Call, Event, FrameworkId, JsonObject
from cook_jupyter.clusters.mesos.transport.answers import REPEATABLE, Answer
from cook_jupyter.clusters.mesos.transport.connection import CallUncertain, NotConnected, Subscription
from cook_jupyter.clusters.mesos.transport.http_calls import LAST_ANSWERS_S
from cook_jupyter.clusters.mesos.transport.http_connection import (
    OPERATOR_API,
    SCHEDULER_API,
    Credential,
    Timing,
)
from cook_jupyter.clusters.mesos.transport.leader import LeaderDetector, MasterAddress
from cook_jupyter.clusters.mesos.transport.pacing import LAST_LOOK_S, BackOff
from cook_jupyter.clusters.mesos.transport.pymesos_parser import provide_parser
from cook_jupyter.clusters.mesos.transport.subscription import (
    Session,
    StreamEnded,
    SubscribingConnection,
    Unsubscribable,
)
from cook_jupyter.errors import ClusterUnusable

HOW_TO_INSTALL = "pip install 'cook_jupyter[pymesos]' && pip install --no-deps pymesos==0.3.15"
"""pip cannot install pymesos with its dependencies: http-parser does not build on Python 3.11 and newer."""

log = logging.getLogger(__name__)

_MOST_REDIRECTS = 3
_OFFER_BYTES = 1300  # about
_EVENTS_AHEAD = 1000  # most events that the driver's thread has read and this one has not
_LOOK_S = 0.5  # between looks of that thread whether it should end
_REFUSED = frozenset({400, 401, 403, 405, 406, 415})
_STATUS_OF_STREAM = re.compile(r"Failed with HTTP (\d+): (.*)", re.DOTALL)
_STATUS_OF_CALL = re.compile(r"Failed to send request (\d+): (.*)\n", re.DOTALL)


class PymesosSchedulerConnection(SubscribingConnection):
    """A `SchedulerConnection` over pymesos.

    Args:
        leader: tells which master leads.
        credential: proves who this framework is; None where masters do not ask.
        timing: deadlines and pauses.
        rng: source of jitter.

    Raises:
        ClusterUnusable: pymesos is not installed.
    """

    def __init__(
        self,
        leader: LeaderDetector,
        *,
        credential: Credential | None = None,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._timing = timing or Timing()
        super().__init__(leader, BackOff(self._timing.shortest_pause_s, self._timing.longest_pause_s, rng))
        self._credential = credential
        self._driver_class = driver_class()

    async def _subscribe(self, candidate: MasterAddress, subscription: Subscription) -> Session:
        """Subscribe at a master, or where it redirects to."""
        address = candidate
        for _ in range(_MOST_REDIRECTS + 1):
            session = _PymesosSession(
                self._driver_class, address, subscription, self._credential, self._timing
            )
            subscribed = False
            try:
                redirect = await session.begin()
                if redirect is None:
                    subscribed = True
                    return session
            finally:
                if not subscribed:
                    await session.close()
            try:
                address = MasterAddress.parse(redirect)
            except ValueError as error:
                raise StreamEnded(f"{address} redirects to {redirect!r}") from error
        raise StreamEnded(f"masters redirect to each other; the last one was {address}")


class _PymesosSession(Session):
    """A driver, used for one subscription."""

    def __init__(
        self,
        make_driver: Callable[..., Any],
        master: MasterAddress,
        subscription: Subscription,
        credential: Credential | None,
        timing: Timing,
    ) -> None:
        super().__init__(master, FrameworkId(""))
        self._loop = asyncio.get_running_loop()
        self._timing = timing
        self._inbox: deque[tuple[Event, int]] = deque()  # filled by the thread of the driver
        self._room = threading.Semaphore(_EVENTS_AHEAD)
        self._heard = asyncio.Event()  # something has arrived, or the driver has ended
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._ended.add_done_callback(asyncio.Future.exception)  # so that it counts as seen
        self._calls: set[asyncio.Future[Answer]] = set()
        self._subscribed: asyncio.Future[str | None] = self._loop.create_future()
        self._interval_s = 15.0
        self._is_closed = False
        # One thread: calls stay in order, and the driver has one connection for them anyway.
        self._caller = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pymesos calls")
        self._driver = make_driver(
            self, subscription, str(master), credential.header[1] if credential else "", timing.call_s
        )

    async def begin(self) -> str | None:
        """Wait for SUBSCRIBED; return where the master redirects to, if it does.

        Raises:
            StreamEnded: the master has not accepted the subscription.
            Unsubscribable: it refuses the framework for good.
        """
        self._driver.start()
        patience_s = self._timing.connect_s + self._timing.subscribe_s
        waited_for: set[asyncio.Future[Any]] = {self._subscribed, self._ended}
        done, _ = await asyncio.wait(waited_for, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if self._ended in done and not self._subscribed.done():
            self._ended.result()
        if not self._subscribed.done():
            raise StreamEnded(f"{self.master} has not answered SUBSCRIBE in {patience_s:g} s")
        return self._subscribed.result()

    async def read(self) -> None:
        """Move events from the driver's thread to the queue."""
        silence_s = self._timing.silent_intervals * self._interval_s
        while True:
            self._heard.clear()
            while self._inbox:
                event, size = self._inbox.popleft()
                self._room.release()
                await self.events.put(event, size)
            if self._ended.done():
                self._ended.result()
            if not (await self._hears(silence_s) or await self._hears(LAST_LOOK_S)):
                raise StreamEnded(f"{self.master} was silent for {silence_s:g} s")

    async def _hears(self, patience_s: float) -> bool:
        """Return whether something arrives in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._heard.wait()
        return self._heard.is_set()

    async def send(self, call: Call) -> Answer:
        """Send a call of the framework."""
        body = {**call, "framework_id": {"value": self.framework_id}}
        return await self._call(body, SCHEDULER_API, repeatable=call["type"] in REPEATABLE)

    async def query(self, call: Call) -> Answer:
        """Ask the operator API."""
        return await self._call(call, OPERATOR_API, repeatable=call["type"].startswith("GET_"))

    def refuse_calls(self, cause: str) -> None:
        """Refuse calls from now on; those that wait for their thread have until `close` to be sent."""
        self._caller.shutdown(wait=False)

    async def close(self) -> None:
        """Stop the driver. Its thread may take some seconds to end; it does nothing any more."""
        self.end("the connection was closed")
        if self._calls:
            await asyncio.wait(self._calls, timeout=LAST_ANSWERS_S)
        self._is_closed = True
        self._caller.shutdown(wait=False, cancel_futures=True)
        self._driver.hang_up()
        await asyncio.to_thread(self._driver.stop, failover=True)  # it waits for a call that hangs

    async def _call(self, body: JsonObject, path: str, *, repeatable: bool) -> Answer:
        try:
            future = self._caller.submit(self._call_in_thread, body, path, repeatable=repeatable)
        except RuntimeError as error:
            raise NotConnected(self.cause) from error
        answer = asyncio.wrap_future(future)
        self._calls.add(answer)
        answer.add_done_callback(self._calls.discard)
        try:
            return await answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise NotConnected(self.cause) from None  # by `close`

    # In the thread of calls

    def _call_in_thread(self, body: JsonObject, path: str, *, repeatable: bool) -> Answer:
        if self._is_closed:
            raise NotConnected(self.cause)
        attempts = 2 if repeatable else 1
        while True:
            attempts -= 1
            try:
                return Answer(202, msgspec.json.encode(self._driver.post(body, path)))
            except TimeoutError as error:
                raise CallUncertain(f"{self.master} did not answer: {error}") from error
            except ConnectionRefusedError as error:
                raise NotConnected(f"cannot connect to {self.master}: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                if attempts == 0 or self._is_closed:
                    raise CallUncertain(f"{self.master} has closed the connection: {error!r}") from error
            except RuntimeError as error:
                refusal = _STATUS_OF_CALL.match(str(error))
                if refusal is None:
                    raise NotConnected(str(error)) from error
                text = refusal[2].removeprefix("b").strip("'\"")
                return Answer(int(refusal[1]), text.encode())

    # In the thread of the driver

    def on_event(self, event: JsonObject) -> None:
        """Enqueue an event; wait while the queue is full."""
        try:
            decoded = msgspec.convert(event, Event)
        except msgspec.ValidationError as error:
            log.error("ignored an event of %s: %s: %.500r", self.master, error, event)  # noqa: TRY400
            return
        if decoded.type in ("SUBSCRIBED", "HEARTBEAT", "ERROR"):
            self._later(self._on_own_event, decoded)
            return
        size = _OFFER_BYTES * (1 if decoded.offers is None else len(decoded.offers.offers))
        while not self._room.acquire(timeout=_LOOK_S):
            if self.cause:
                return
        self._inbox.append((decoded, size))
        self._later(self._heard.set)

    def on_redirect(self, location: str) -> None:
        """Note where the leader is."""
        self._later(self._on_redirected, location)

    def on_closed(self, error: BaseException | None) -> None:
        """Note the end of the driver's connection."""
        self._later(self._on_driver_ended, error)

    def _later(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(function, *args)

    # In the event loop

    def _on_own_event(self, event: Event) -> None:
        self._heard.set()
        if event.type == "ERROR":
            message = event.error.message if event.error else "an error"
            self._finish(Unsubscribable(self.master, message))
        elif event.subscribed is not None and not self._subscribed.done():
            self.framework_id = FrameworkId(event.subscribed.framework_id.value)
            self._interval_s = event.subscribed.heartbeat_interval_seconds
            self._subscribed.set_result(None)

    def _on_redirected(self, location: str) -> None:
        if not self._subscribed.done():
            self._subscribed.set_result(location)

    def _on_driver_ended(self, error: BaseException | None) -> None:
        refusal = _STATUS_OF_STREAM.match(str(error))
        if refusal is not None and int(refusal[1]) in _REFUSED:
            text = refusal[2].removeprefix("b").strip("'\"") or f"status {refusal[1]}"
            self._finish(Unsubscribable(self.master, text, int(refusal[1])))
            return
        because = f": {error}" if error is not None else ""
        self._finish(StreamEnded(f"{self.master} has ended the stream of events{because}"))

    def _finish(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            self._heard.set()


_importing = threading.Lock()


def driver_class() -> Callable[..., Any]:
    """Import pymesos and return the class of its driver.

    Raises:
        ClusterUnusable: it is not installed, or this is not the main thread, outside of which it cannot be
            imported.
    """
    with _importing:
        provide_parser()
        handler = signal.getsignal(signal.SIGINT)
        logger = logging.getLogger("pymesos")
        handlers = list(logger.handlers)
        try:
            from cook_jupyter.clusters.mesos.transport.pymesos_driver import Driver
        except ImportError as error:
            raise ClusterUnusable(f"pymesos is not installed ({error}): {HOW_TO_INSTALL}") from error
        except ValueError as error:
            raise ClusterUnusable("pymesos can only be imported in the main thread") from error
        finally:
            logger.handlers = handlers  # it adds one that writes to stderr
            if threading.current_thread() is threading.main_thread() and handler is not None:
                signal.signal(signal.SIGINT, handler)
    return Driver
