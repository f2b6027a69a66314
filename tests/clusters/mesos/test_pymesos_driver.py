"""What pymesos does wrong by itself does not happen here."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from cook_jupyter.clusters.mesos.transport.leader import MasterAddress, MasterList
from tests.clusters.mesos.fake_master import LOST_CALL, FakeMaster, Fault
from tests.clusters.mesos.framework import Framework
from tests.clusters.mesos.implementations import connection_maker
from tests.waiting import HANG_S, wait_until_async

IMPORT = "from cook_jupyter.clusters.mesos.transport.pymesos_connection import driver_class"


@pytest.fixture
async def framework(master: FakeMaster) -> AsyncIterator[Framework]:
    make = connection_maker("pymesos")
    framework = Framework(make(MasterList([master.address])))
    yield framework
    await framework.stop()


async def test_an_error_of_a_handler_tears_nothing_down(master: FakeMaster, framework: Framework) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    framework.on_event_wait = fail
    framework.begin()
    with pytest.raises(ZeroDivisionError):
        await framework.end()

    await wait_until_async(lambda: not master.connections)
    assert master.of_type("TEARDOWN") == []


async def test_an_acknowledgement_that_fails_tears_nothing_down(
    master: FakeMaster, framework: Framework
) -> None:
    master.fail("ACKNOWLEDGE", Fault(status=500), LOST_CALL, LOST_CALL)
    framework.acknowledges = False
    await framework.start()
    [task] = await framework.launch(await framework.offer(), "true")
    await framework.state(task, "TASK_STARTING")
    call = {"type": "ACKNOWLEDGE", "acknowledge": {"agent_id": {}, "task_id": {"value": task}, "uuid": ""}}

    await asyncio.gather(*(framework.connection.send(call) for _ in range(2)), return_exceptions=True)

    await framework.kill("none")
    assert master.of_type("TEARDOWN") == []
    assert not framework.disconnections


async def test_a_framework_claims_no_gpus_that_it_did_not_ask_for(
    master: FakeMaster, framework: Framework
) -> None:
    await framework.start()

    [subscribe] = master.of_type("SUBSCRIBE")
    capabilities = subscribe.call["subscribe"]["framework_info"]["capabilities"]
    assert capabilities == [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}]


async def test_a_name_that_does_not_resolve_interrupts_nothing(master: FakeMaster) -> None:
    make = connection_maker("pymesos")
    masters = MasterList([MasterAddress("no-such-host.invalid"), MasterAddress("::1"), master.address])

    framework = await Framework(make(masters)).start()

    await framework.stop()


@pytest.mark.parametrize("handler", ["signal.SIG_DFL", "signal.SIG_IGN", "signal.default_int_handler"])
def test_importing_it_leaves_the_handling_of_interrupts_as_it_was(handler: str) -> None:
    connection_maker("pymesos")

    run(f"""
import signal
signal.signal(signal.SIGINT, {handler})
{IMPORT}
driver_class()
assert signal.getsignal(signal.SIGINT) == {handler}
""")


def test_importing_it_in_another_thread_is_refused() -> None:
    connection_maker("pymesos")

    run(f"""
import concurrent.futures
from cook_jupyter.errors import ClusterUnusable
{IMPORT}
with concurrent.futures.ThreadPoolExecutor() as pool:
    error = pool.submit(driver_class).exception()
assert isinstance(error, ClusterUnusable) and "main thread" in str(error), error
driver_class()
""")


def run(program: str) -> None:
    """Run a program in a process of its own."""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=HANG_S)
