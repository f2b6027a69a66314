"""The implementations of a connection to Mesos, for tests."""

from collections.abc import Callable
from functools import partial

from cook_jupyter.clusters.mesos.transport.connection import SchedulerConnection
from cook_jupyter.clusters.mesos.transport.http_connection import HttpSchedulerConnection, Timing
from cook_jupyter.clusters.mesos.transport.pymesos_connection import PymesosSchedulerConnection, driver_class
from cook_jupyter.errors import ClusterUnusable
from tests.conftest import missing_part

MakeConnection = Callable[..., SchedulerConnection]

IMPLEMENTATIONS = ("http", "pymesos")

PYMESOS_GAPS = {
    "test_acknowledgements_do_not_wait_behind_other_calls": "it has one connection for all calls",
    "test_a_call_that_nobody_waits_for_any_more_is_not_sent": "its thread has taken the call already",
    "test_a_question_whose_answer_is_not_json_is_uncertain": "it returns an empty answer",
    "test_an_event_may_have_64_megabytes": "its cost grows with the square of the size",
    "test_a_stream_that_ends_inside_an_event_is_replaced": "it does not say where the stream ended",
    "test_a_stream_without_lengths_is_replaced": "it reads on, until the watchdog ends the silence",
}
"""Tests that pymesos cannot pass, and why: docs/reference/mesos-connections.md."""

QUICK = Timing(shortest_pause_s=0.01, longest_pause_s=0.15, connect_s=1.0, subscribe_s=1.0)
"""Back-off at a hundredth of its length."""

IMPATIENT = Timing(shortest_pause_s=0.01, longest_pause_s=0.15, call_s=0.3)
"""For calls that hang."""


def connection_maker(implementation: str) -> MakeConnection:
    """Return a function that makes connections; skip the test if the implementation is not installed.

    Args:
        implementation: one of `IMPLEMENTATIONS`.
    """
    if implementation == "http":
        return partial(HttpSchedulerConnection, timing=QUICK)
    try:
        driver_class()
    except ClusterUnusable as error:
        missing_part(str(error))
    return partial(PymesosSchedulerConnection, timing=QUICK)
