"""`make lab`: the demo notebook, opened in JupyterLab and seen in a real browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import TimeoutError as TooLong
from playwright.sync_api import sync_playwright

from tests.conftest import missing_part
from tests.waiting import HANG_S

DEMO = Path(__file__).parents[2] / "binder" / "fair_share_demo.ipynb"
START_S = HANG_S
PRESSES = 3


def read_server_info(runtime: Path) -> dict[str, str] | None:
    """Return what the server wrote about itself, or None while it has not written all of it.

    Jupyter opens the file before it writes it, so the file may be seen empty.
    """
    for path in runtime.glob("jpserver-*.json"):
        try:
            server_info: dict[str, str] = json.loads(path.read_text())
        except json.JSONDecodeError:
            return None
        return server_info
    return None


@pytest.fixture
def lab(tmp_path: Path, cook_home: Path) -> Iterator[str]:
    """The address of a JupyterLab whose folder holds the demo."""
    shutil.copy(DEMO, tmp_path / "demo.ipynb")
    runtime = tmp_path / "runtime"
    environment = {
        **os.environ,
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "COOK_JUPYTER_HOME": str(cook_home),
    }
    # A number of its own, not 0: servers before 2.15 write the 0 into the runtime file.
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    words = ["jupyterlab", "--no-browser", "--allow-root", f"--port={port}", f"--notebook-dir={tmp_path}"]
    log = tmp_path / "lab.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *words, "--LabApp.news_url=None"],
            env=environment,
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
        try:
            deadline = time.monotonic() + START_S
            while (server_info := read_server_info(runtime)) is None:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield f"{server_info['url']}lab/tree/demo.ipynb?token={server_info['token']}"
        finally:
            server.terminate()
            server.wait(HANG_S)


@pytest.mark.browser
def test_the_demo_opens_in_jupyterlab_and_its_first_cell_runs(lab: str) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        missing_part("no Chromium: apt-get install chromium")
    with sync_playwright() as drive:
        browser = drive.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        page.goto(lab)
        page.get_by_role("heading", name="A fair share of one machine").wait_for(timeout=60_000)
        # The page shows text before it takes keys: a key pressed while the kernel starts or the editor is
        # being made is lost.
        page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").wait_for(timeout=90_000)
        first = page.locator(".jp-CodeCell").first
        begun = first.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
        for _ in range(PRESSES):
            first.locator(".cm-content").click()
            page.keyboard.press("Shift+Enter")
            try:
                begun.wait_for(timeout=10_000)
                break
            except TooLong:
                continue
        ran = first.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]"))
        try:
            ran.wait_for(timeout=120_000)
        except TooLong:
            pytest.fail(f"the first cell did not run; the page says:\n{page.inner_text('body')}")
        errors = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']")
        assert errors.count() == 0, errors.all_inner_texts()
        browser.close()


def test_a_runtime_file_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "jpserver-1.json"
    whole = json.dumps({"url": "http://127.0.0.1:1/", "token": "t"})
    assert read_server_info(tmp_path) is None
    for length in range(len(whole)):
        path.write_text(whole[:length])
        assert read_server_info(tmp_path) is None
    path.write_text(whole)
    assert read_server_info(tmp_path) == {"url": "http://127.0.0.1:1/", "token": "t"}
