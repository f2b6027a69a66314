"""The magics in a real kernel: streaming, the stop button, a restart, notebooks that nobody watches."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from cook_jupyter.client.connect import connect
from tests.notebook.conftest import waiting_for
from tests.waiting import HANG_S

pytestmark = pytest.mark.slow

TIMEOUT_S = HANG_S


class Kernel:
    """A real ipykernel and a frontend for it that notes when each message came."""

    def __init__(self, manager: AsyncKernelManager, client: Any) -> None:
        self.manager = manager
        self.client = client

    async def run(
        self,
        code: str,
        *,
        watched: bool = True,
        when: str | None = None,
        do: Callable[[], Awaitable[None]] | None = None,
    ) -> list[tuple[float, str, dict[str, Any]]]:
        """Execute a cell; return (seconds since the start, kind, content) of all it sent.

        With `when`, `do` is called once, as soon as the cell has printed or displayed that.
        """
        began = time.monotonic()
        asked = self.client.execute(code, allow_stdin=watched)
        seen: list[tuple[float, str, dict[str, Any]]] = []
        while True:
            message = await self.client.get_iopub_msg(timeout=TIMEOUT_S)
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            seen.append((time.monotonic() - began, message["msg_type"], content))
            shown = content.get("text", str(content.get("data", "")))
            if when is not None and do is not None and when in shown:
                when = None
                await do()
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                return seen


def text_of(seen: list[tuple[float, str, dict[str, Any]]], kind: str = "stream") -> str:
    if kind == "stream":
        return "".join(content["text"] for _, found, content in seen if found == kind)
    return "\n".join(str(content.get("data", content)) for _, found, content in seen if found == kind)


@pytest.fixture
async def kernel(home: Path) -> AsyncIterator[Kernel]:
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=TIMEOUT_S)
    kernel = Kernel(manager, client)
    await kernel.run("%load_ext cook_jupyter")
    yield kernel
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


def opening(gate: Path) -> Callable[[], Awaitable[None]]:
    """Return what makes the file that a cell waits for."""

    async def open_gate() -> None:
        await asyncio.to_thread(gate.touch)

    return open_gate


async def test_output_appears_while_the_cell_runs(kernel: Kernel, gate: Path) -> None:
    seen = await kernel.run(
        f"%%cook\nprint('first', flush=True)\n{waiting_for(gate)}\nprint('second')",
        when="first",
        do=opening(gate),  # so the cell does not end before its output was seen
    )

    assert text_of(seen) == "first\nsecond\n"


async def test_a_watched_cell_tells_its_state_in_one_line_that_is_replaced(
    kernel: Kernel, gate: Path
) -> None:
    seen = await kernel.run(f"%%cook --name slow\n{waiting_for(gate)}", when="running", do=opening(gate))

    shown = [content for _, kind, content in seen if kind == "display_data"]
    updates = [content for _, kind, content in seen if kind == "update_display_data"]
    assert len(shown) == 1
    assert updates
    assert any("running" in content["data"]["text/plain"] for content in (*shown, *updates))
    assert "succeeded" in updates[-1]["data"]["text/plain"]
    assert "text/html" in updates[-1]["data"]


async def test_what_is_quick_says_nothing_about_itself(kernel: Kernel) -> None:
    await kernel.run("from cook_jupyter.notebook import cell_run\ncell_run.SILENT_S = 60")  # all is quick
    seen = await kernel.run("%%cook\nprint('quick')")

    assert not [kind for _, kind, _ in seen if kind in ("display_data", "update_display_data")]
    assert text_of(seen) == "quick\n"


async def test_where_nobody_watches_nothing_but_the_output_is_shown(kernel: Kernel) -> None:
    seen = await kernel.run("%%cook\nimport time\ntime.sleep(1.6)\nprint('done')", watched=False)

    assert not [kind for _, kind, _ in seen if kind in ("display_data", "update_display_data")]
    assert text_of(seen) == "done\n"


async def test_the_stop_button_kills_the_job_and_the_kernel_goes_on(kernel: Kernel) -> None:
    seen = await kernel.run(
        "%%cook --name stopped\nimport time\nprint('begun', flush=True)\ntime.sleep(600)",
        when="begun",
        do=kernel.manager.interrupt_kernel,
    )

    errors = [content for _, kind, content in seen if kind == "error"]
    assert errors[0]["ename"] == "KeyboardInterrupt"
    assert "was killed" in "".join(errors[0]["traceback"])
    assert "killed" in text_of(await kernel.run("%cook list stopped"), "execute_result")
    assert "42" in text_of(await kernel.run("%%cook\n6 * 7"), "execute_result")


async def test_killing_asks_which_and_takes_the_answer(kernel: Kernel) -> None:
    for number in (1, 2):
        await kernel.run(f"%%cook --background twin_{number} --name twins\nimport time\ntime.sleep(60)")

    async def answer() -> str:
        message = await kernel.client.get_stdin_msg(timeout=TIMEOUT_S)
        kernel.client.input("2")  # the older one: the newest comes first
        return str(message["content"]["prompt"])

    asked = asyncio.create_task(answer())
    await kernel.run("killed = %cook kill twins")

    assert "Which one?" in await asked
    checked = await kernel.run("[job.uuid for job in killed] == [twin_1.key]")
    assert "True" in text_of(checked, "execute_result")
    await kernel.run("twin_2.kill()")


async def test_a_restarted_kernel_gets_the_result_and_the_names_back(kernel: Kernel) -> None:
    await kernel.run(
        "%%cook --background job --name overnight --out model\n"
        "import time\ntime.sleep(1)\nmodel = [1, 2, 3]\ndisplay('shown')\n'value'"
    )
    await kernel.manager.restart_kernel(now=True)
    await kernel.client.wait_for_ready(timeout=TIMEOUT_S)
    await kernel.run("%load_ext cook_jupyter")

    seen = await kernel.run("%cook wait overnight")
    assert "value" in text_of(seen, "execute_result")
    assert "shown" in text_of(seen, "display_data")
    assert "[1, 2, 3]" in text_of(await kernel.run("model"), "execute_result")


async def test_a_cell_survives_a_restart_of_the_scheduler(kernel: Kernel) -> None:
    async def end_the_scheduler() -> None:
        client = await asyncio.to_thread(connect, start=False)
        await asyncio.to_thread(client.shutdown)

    seen = await kernel.run(
        "%%cook --name survivor\nimport time\n"
        "for step in range(4):\n    print(step, flush=True)\n    time.sleep(1)\n'alive'",
        when="1\n",
        do=end_the_scheduler,
    )

    assert "alive" in text_of(seen, "execute_result")
    # On a slow machine a notice that the scheduler is away stands between, on stderr.
    written = [content for _, kind, content in seen if kind == "stream" and content["name"] == "stdout"]
    assert "".join(content["text"] for content in written) == "0\n1\n2\n3\n"


async def test_a_notebook_is_executed_from_top_to_bottom(home: Path) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source)
            for source in (
                "%load_ext cook_jupyter",
                "factor = 3",
                "%%cook --out y\ny = factor * 14\ny",
                "%cook",
                "assert y == 42",
            )
        ]
    )

    await NotebookClient(notebook, timeout=int(TIMEOUT_S)).async_execute()

    assert notebook.cells[2].outputs[0].data["text/plain"] == "42"
    state = notebook.cells[3].outputs[0].data
    assert "cook_jupyter at" in state["text/plain"]
    assert "<table" in state["text/html"]


async def test_a_failing_cell_stops_a_notebook_with_a_short_traceback(home: Path) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source)
            for source in ("%load_ext cook_jupyter", "%%cook\n{}['missing']")
        ]
    )

    with pytest.raises(CellExecutionError):
        await NotebookClient(notebook, timeout=int(TIMEOUT_S)).async_execute()
    (error,) = [output for output in notebook.cells[1].outputs if output.output_type == "error"]
    assert error.ename == "KeyError"
    assert len(error.traceback) < 12
