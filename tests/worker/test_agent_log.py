"""Text that jobs choose is one line of the agent's log, without commands to a terminal."""

import pytest

from cook_jupyter.worker.agent_log import log, printable_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("threads: 雪 é", "threads: 雪 é"),
        ("\x1b[2J\nforged", r"\x1b[2J\nforged"),
        ("\ud800", r"\ud800"),
        ("\u202e", r"\u202e"),
        ("\x9b\x7f\0", r"\x9b\x7f\x00"),
    ],
)
def test_a_line_holds_no_control_characters(text: str, shown: str) -> None:
    assert printable_line(text) == shown


def test_a_lone_surrogate_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    log("worker is retired: \ud800\n")

    assert capfd.readouterr().err.endswith("worker is retired: \\ud800\\n\n")
