"""Names, messages and output of others are shown as text: no terminal obeys them, no page runs them."""

import ast
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

import cook_jupyter
from cook_jupyter import cli
from cook_jupyter.client.answers import Capacity, QuotaAnswer, ShareAnswer, UsageAnswer, UserSummary
from cook_jupyter.client.connect import connect
from cook_jupyter.client.sync import JobClient
from cook_jupyter.errors import CookError
from cook_jupyter.notebook import commands
from cook_jupyter.notebook.cell_run import restart_reason, state_line
from cook_jupyter.notebook.job_views import JobsView, JobView, how_it_ended
from cook_jupyter.notebook.views import SettingsView, StateView, UsageView, WhyView
from tests.client.stub_server import Answer, ReceivedRequest, as_json, stub_server
from tests.notebook.test_views import NOW_MS, a_job, a_summary, an_instance, answer, summary_of

EVIL = '\x1b]0;owned\x07\x9b2J\r\n\u202e"><script>alert(1)</script>'
STRUCTURE = {"state", "status", "uuid", "task_id", "standing"}  # words that the scheduler alone chooses


def spoiled(value: Any, key: str = "") -> Any:
    """The same JSON with something evil in every text that somebody could choose."""
    if isinstance(value, dict):
        return {
            (name if name.isidentifier() else name + EVIL): spoiled(each, name)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [spoiled(each, key) for each in value]
    return value + EVIL if isinstance(value, str) and key not in STRUCTURE else value


def views() -> list[Any]:
    """Each view, of jobs in each state, with something evil in every text."""
    instance = an_instance("failed", reason_string="Exit", end_time=NOW_MS, exit_code=1, preempted=True)
    running = an_instance("running", progress=40, progress_message="half")
    jobs = [
        JobView(answer(spoiled(a_job(state, instances=instances))), NOW_MS)
        for state in ("waiting", "running", "success", "failed")
        for instances in ([], [instance], [instance, running])
        if instances or state in ("waiting", "failed")
    ]
    listed = JobsView(tuple(jobs), NOW_MS, "Jobs of " + EVIL)
    summary = summary_of(spoiled(a_summary()))
    amounts = {"pools": {"default" + EVIL: {"cpus": 1.0}}}
    usage = {"pools": {"default" + EVIL: {"total_usage": {"cpus": 1.0, "mem": 1.0, "gpus": 0, "jobs": 1}}}}
    return [
        *jobs,
        *(state_line(job, "Because " + EVIL) for job in jobs),
        *(WhyView(job, ("Because " + EVIL, how_it_ended(job)), summary) for job in jobs),
        listed,
        JobsView((), NOW_MS, EVIL),
        StateView(summary, "http://x" + EVIL, listed),
        UsageView(
            user="ada" + EVIL,
            usage=msgspec.convert(usage, UsageAnswer),
            share=msgspec.convert(amounts, ShareAnswer),
            quota=msgspec.convert(amounts, QuotaAnswer),
            capacity=Capacity(cpus=2.0),
            summary=UserSummary(user="ada" + EVIL, standing="hungry", dru=2.0),
        ),
        SettingsView(((EVIL, EVIL, EVIL),), "hint"),
    ]


@pytest.mark.parametrize("view", views(), ids=lambda view: type(view).__name__)
def test_no_view_passes_on_what_a_terminal_or_a_page_would_obey(view: Any) -> None:
    text, page = repr(view), view._repr_html_()
    for shown in (text, page):
        assert not {letter for letter in shown if letter < " " or "\x7f" <= letter <= "\x9f"} - {"\n"}
        assert "\u202e" not in shown
    assert "owned\n" not in text  # no line is forged
    assert "<script" not in page


def test_how_an_attempt_ended_is_no_command_either() -> None:
    instances = [an_instance("failed", reason_string="Exit"), an_instance()]
    job = JobView(answer(spoiled(a_job(instances=instances))), NOW_MS)
    assert "\x1b" not in repr(state_line(job, restart_reason(job)))


class NotebookOf:
    """What `%cook logs` needs of a notebook."""

    def __init__(self, client: JobClient) -> None:
        self.last_key: str | None = None
        self.namespace: dict[str, Any] = {}
        self.client = client
        self.written = ""

    def write(self, text: str) -> None:
        self.written += text


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(("owner", "shown"), [("eve", "\\x1b[2Jhello\n"), ("ada", "\x1b[2Jhello\n")])
def test_the_output_of_others_is_written_out_and_ones_own_keeps_its_colours(
    owner: str, shown: str, follow: bool
) -> None:
    job = a_job("success", user=owner, instances=[an_instance("success", end_time=NOW_MS)])

    def answer(asked: ReceivedRequest) -> Answer:
        if "/v1/logs/" in asked.path:
            return Answer(body=b"\x1b[2Jhello\n", headers={"X-Cook-Ended": "true"})
        return as_json(job)

    with stub_server(answer) as server:
        notebook = NotebookOf(JobClient(server.url, token="t", user="ada"))
        options = Namespace(job=job["uuid"], attempt=None, stderr=False, follow=follow, tail=None)
        commands.logs(notebook, options)  # type: ignore[arg-type]
    assert notebook.written == shown


def test_the_command_line_prints_no_commands_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = spoiled(a_summary())
    with stub_server(lambda asked: as_json(summary if "summary" in asked.path else INFO)) as server:
        monkeypatch.setenv("COOK_JUPYTER_URL", server.url)
        result = CliRunner().invoke(cli.cook_jupyter, ["status"])
    assert result.exit_code == 0, result.output
    assert "ada" in result.output
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output


INFO = {"version": "1" + EVIL, "pid": 1, "home": "/h" + EVIL, "user": "ada"}


def test_errors_of_a_scheduler_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: ReceivedRequest) -> Answer:
        return as_json({"error": "no " + EVIL}, status=400)

    with stub_server(refuse) as server:
        with pytest.raises(CookError) as raised:
            connect(server.url).pools()
        assert "\x1b" not in str(raised.value)


def test_the_log_of_a_scheduler_is_text_and_each_record_one_line() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "GET %s failed", ("/" + EVIL,), None)
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    first, *rest = cli.PrintableFormatter("%(message)s").format(record).splitlines()
    assert first.startswith("GET /\\x1b")
    assert first.endswith("failed")
    assert "\x1b" not in "".join(rest)
    assert any("ValueError" in line for line in rest)


@pytest.mark.parametrize(
    ("module", "name", "is_allowed"),
    [
        ("cli.py", "echo", lambda function: function == "_print"),
        ("notebook", "escape", lambda function: function == "html_text"),
        ("notebook", "print", lambda _: False),
        ("client", "print", lambda _: False),
        ("executor", "print", lambda _: False),
    ],
)
def test_there_is_one_way_from_text_to_terminal_and_page(
    module: str, name: str, is_allowed: Callable[[str], bool]
) -> None:
    """Whoever adds a place that shows something adds it behind `printable`."""
    root = Path(cook_jupyter.__file__).parent / module
    for path in [root] if root.is_file() else root.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef) and not is_allowed(function.name):
                called = [
                    getattr(node.func, "attr", getattr(node.func, "id", ""))
                    for node in ast.walk(function)
                    if isinstance(node, ast.Call)
                ]
                assert name not in called, f"{path.name}: {function.name}"
