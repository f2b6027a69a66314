"""The connection of a framework to the leading master, as a protocol.

Lives here: `SchedulerConnection`, its listener and its errors.
Not here: our implementation over HTTP (`clusters.mesos.transport.http_connection`), the one over pymesos
(`clusters.mesos.transport.pymesos_connection`), what events mean (`clusters.mesos.cluster`).
"""

from dataclasses import dataclass
from typing import Protocol

from cook_jupyter.clusters.mesos.messages import Call, Event, FrameworkId, JsonObject


class CallFailed(Exception):
    """A call was not answered with 202. These errors stay inside of `clusters.mesos`."""


class NotConnected(CallFailed):
    """The call was certainly not taken. Whoever needs it sends it again later.

    There is no subscription, or the master cannot be reached or does not accept the subscription any more.
    """


class CallUncertain(CallFailed):
    """The call was sent, and it is unknown whether the master took it: no answer, or a server error."""


class CallRejected(CallFailed):
    """The master has refused the call for its content (400), which repeating would not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What to subscribe with.

    Attributes:
        framework: FrameworkInfo, with its id unless it is new.
        suppressed_roles: roles for which no offers are wanted.
    """

    framework: JsonObject
    suppressed_roles: tuple[str, ...] = ()


class ConnectionListener(Protocol):
    """Receives what happens on a connection, one call after the other.

    An exception of a method ends `run`, which raises it.
    """

    def subscription(self) -> Subscription:
        """Return what to subscribe with; called before each subscription."""

    async def on_subscribed(self, framework_id: FrameworkId, master: str) -> None:
        """Note a new subscription: all earlier offers are void. Calls can be sent from now on.

        Args:
            framework_id: id of the framework, to be stored durably before this returns.
            master: address of the master, for logs.
        """

    async def on_event(self, event: Event) -> None:
        """Handle an event other than SUBSCRIBED, HEARTBEAT and ERROR.

        While this waits nothing more is read, so that TCP slows the master down.
        """

    def on_disconnected(self, cause: str) -> None:
        """Note the end of a subscription: offers are void, calls raise `NotConnected` until the next one."""


class SchedulerConnection(Protocol):
    """The connection of one framework to the leading master."""

    async def run(self, listener: ConnectionListener) -> None:
        """Find the leading master, subscribe, and subscribe again whenever that ends; until cancelled.

        Raises:
            ClusterUnusable: another scheduler has subscribed with the id of this framework ("failed over");
                the master has removed the framework, whose id never works again; or it refuses the
                framework, its credentials or its role. The message says which, and what to do.
        """

    async def send(self, call: Call) -> None:
        """Send a call; return when the master has queued it (202), which does not mean that it was done.

        Calls are sent in the order in which `send` was called, except that acknowledgements may overtake
        other calls and be overtaken by them.

        Raises:
            CallFailed: one of its three kinds.
        """

    async def query(self, call: Call) -> JsonObject:
        """Ask the leading master's operator API (`/api/v1`), such as GET_AGENTS; return its answer.

        Raises:
            CallFailed: one of its three kinds; `CallRejected` also if the framework may not ask.
        """
