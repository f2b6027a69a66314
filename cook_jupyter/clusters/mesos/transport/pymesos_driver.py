"""The scheduler driver of pymesos with its dangers removed.

Lives here: `Driver`. It lives for one subscription: it never subscribes again, sends no TEARDOWN, does not
interrupt the main thread, sends FrameworkInfo as it is, and hands events over as they come.
Not here: its use (`clusters.mesos.transport.pymesos_connection`). Importing this module imports pymesos: use
`pymesos_connection.driver_class`.

It uses what pymesos 0.3.15 has inside, the last version there is.
"""

import contextlib
import os
import select
import socket
from types import SimpleNamespace
from typing import Any, Protocol

from pymesos import process, scheduler

from cook_jupyter.clusters.mesos.messages import JsonObject, encode_call, subscribe
from cook_jupyter.clusters.mesos.transport.connection import Subscription
from cook_jupyter.clusters.mesos.transport.pymesos_parser import HttpParser

process.HttpParser = HttpParser
# A fault in the thread of a driver interrupts the main thread, whatever that is doing.
process.thread = SimpleNamespace(interrupt_main=lambda: None)

_FOR_EVER_S = 1e9


class DriverListener(Protocol):
    """Receives what happens, in the thread of the driver."""

    def on_event(self, event: JsonObject) -> None:
        """Receive an event; the driver reads on when this returns."""

    def on_redirect(self, location: str) -> None:
        """Note that another master leads; the driver ends."""

    def on_closed(self, error: BaseException | None) -> None:
        """Note the end of the driver."""


class Driver(scheduler.MesosSchedulerDriver):  # type: ignore[misc]
    """A driver for one subscription.

    Args:
        listener: receiver of events.
        subscription: what to subscribe with.
        master: address of the master.
        authorization: value of the header that proves who this framework is; empty without.
        call_s: seconds for a call.
    """

    def __init__(
        self,
        listener: DriverListener,
        subscription: Subscription,
        master: str,
        authorization: str,
        call_s: float,
    ) -> None:
        super().__init__(
            None,
            dict(subscription.framework),
            master,
            implicit_acknowledgements=False,
            failover=True,
            timeout=_FOR_EVER_S,
        )
        self._subscription = subscription
        self._listener = listener
        self._call_s = call_s
        self._basic_credential = authorization or None  # pymesos makes one of ASCII only
        self._stream: str | None = None

    @property
    def stream_id(self) -> str | None:
        """The stream id; without the lock, which pymesos holds while it waits for the answer to a call."""
        return self._stream

    @stream_id.setter
    def stream_id(self, stream_id: str | None) -> None:
        self._stream = stream_id

    def gen_request(self) -> bytes:
        """Return SUBSCRIBE; that of pymesos has no suppressed roles, and claims GPU_RESOURCES."""
        framework = self._subscription.framework
        framework_id = framework.get("id", {}).get("value")
        body = encode_call(subscribe(framework, self._subscription.suppressed_roles), framework_id)
        authorization = f"Authorization: {self._basic_credential}\r\n" if self._basic_credential else ""
        head = (
            f"POST /api/v1/scheduler HTTP/1.1\r\nHost: {self.master_uri}\r\n{authorization}"
            "Content-Type: application/json\r\nAccept: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def post(self, body: JsonObject, path: str) -> JsonObject:
        """Send a call, with headers of its own."""
        answer: JsonObject = self._send(body, path, headers={})
        return answer

    def hang_up(self) -> None:
        """End a call that waits for its answer."""
        connection = self._conn
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def start(self) -> None:
        """Begin to subscribe."""
        super(scheduler.MesosSchedulerDriver, self).start()
        super().change_master(self.master_uri)

    def change_master(self, master: str) -> None:
        """Note a redirect; another driver follows it."""
        self._listener.on_redirect(master)
        self._quit()

    def on_event(self, event: JsonObject) -> None:
        """Hand over an event."""
        self._listener.on_event(event)

    def on_close(self) -> None:
        """Report the end at once, and end instead of subscribing again."""
        self._listener.on_closed(None)
        self._quit()

    def _get_version(self, _: object) -> None:
        """Do not ask, which would take up to ten seconds."""

    def _get_conn(self) -> Any:
        """Return the connection for calls, with our deadline; pymesos has the one for reconnecting, a day."""
        connection = super()._get_conn()
        if connection is None:
            return None
        if connection.sock is not None and _is_closed(connection.sock):
            connection.close()
        if connection.sock is None:
            connection.timeout = self._call_s
        return connection

    def _backoff(self, _: int) -> float:
        """Do not sleep: the driver ends."""
        return 0.0

    def _shutdown(self) -> None:
        """Report the end, at the end of the thread; never send TEARDOWN."""
        error, process._exc_info = process._exc_info, None  # noqa: SLF001
        self._listener.on_closed(error[1] if error else None)

    def _quit(self) -> None:
        """Let the thread end before it connects again."""
        self._started = False  # without the lock, as above
        wakeup = self._wakeup_fds
        if wakeup is not None:
            os.write(wakeup[1], b"\0")


def _is_closed(sock: socket.socket) -> bool:
    """Return whether the other side has closed an idle connection."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
