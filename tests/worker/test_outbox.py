"""A worker's log lives as long as an end in it is not acknowledged, and no longer."""

from pathlib import Path

from cook_jupyter.worker.outbox import Outbox
from cook_jupyter.worker.task import Cause, EndReport, TaskExit


def an_end(instance_id: str) -> EndReport:
    return EndReport(TaskExit(instance_id, 0, at_ms=1), Cause.DONE, f"sandboxes/{instance_id}")


def test_a_log_goes_when_its_worker_and_all_its_ends_are_gone(tmp_path: Path) -> None:
    outbox, log = Outbox(str(tmp_path)), tmp_path / "w.0"
    log.touch()
    outbox.add(an_end("a"), ("w", 0))
    outbox.add(an_end("b"), ("w", 0))

    outbox.settle(["a"])
    outbox.on_worker_gone("w")
    outbox.remove_settled()
    assert log.exists()

    outbox.settle(["b"])
    outbox.remove_settled()
    assert not log.exists()


def test_the_log_that_a_worker_writes_stays(tmp_path: Path) -> None:
    outbox, log = Outbox(str(tmp_path)), tmp_path / "w.0"
    log.touch()
    outbox.add(an_end("a"), ("w", 0))

    outbox.settle(["a"])
    outbox.remove_settled()

    assert log.exists()


def test_a_segment_goes_when_the_worker_has_begun_the_next(tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path))
    for segment in range(3):
        (tmp_path / f"w.{segment}").touch()
    outbox.add(an_end("a"), ("w", 0))
    outbox.add(an_end("b"), ("w", 2))

    outbox.settle(["a", "b"])
    outbox.remove_settled()

    assert [path.name for path in tmp_path.iterdir()] == ["w.2"]


def test_ends_are_told_again_in_their_order_until_settled(tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path))
    for name in "abc":
        outbox.add(an_end(name), None)

    outbox.settle(["b", "unknown"])

    assert [report.end.instance_id for report in outbox.reports()] == ["a", "c"]
    assert "a" in outbox
    assert "b" not in outbox
