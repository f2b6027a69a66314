"""`cook-jupyter simulate`, as it is called from a shell."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cook_jupyter.cli import cook_jupyter
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.simulation.traces import SimHost, TraceJob, read_rows, write_hosts, write_trace


def called(*words: str | Path) -> Result:
    return CliRunner().invoke(cook_jupyter, ["simulate", *map(str, words)])


@pytest.fixture
def files(tmp_path: Path) -> list[str | Path]:
    jobs = [TraceJob(f"job-{n}", f"user-{n % 2}", 40_000 * n, 100_000, 1.0, 100.0) for n in range(4)]
    write_trace(tmp_path / "trace.json", jobs)
    write_hosts(tmp_path / "hosts.json", [SimHost("h1", 2.0, 1000.0)])
    return ["--trace", tmp_path / "trace.json", "--hosts", tmp_path / "hosts.json"]


def test_rows_come_out_as_a_file_and_progress_on_stderr(files: list[str | Path], tmp_path: Path) -> None:
    result = called(*files, "--out", tmp_path / "rows.csv")

    assert result.exit_code == 0, result.stderr
    assert [row.job_id for row in read_rows(tmp_path / "rows.csv")] == ["job-0", "job-1", "job-2"]
    assert "4 rows" not in result.stdout
    assert "fair: 3 rows in" in result.stderr


def test_several_policies_are_compared_each_with_rows_of_its_own(
    files: list[str | Path], tmp_path: Path
) -> None:
    result = called(
        *files,
        *("--policy", "fair", "--policy", "quota", "--until-done", "--cycle-step-ms", "10000"),
        *("--out", tmp_path / "rows.csv", "--report", tmp_path / "report", "--summary"),
    )

    assert result.exit_code == 0, result.stderr
    assert len(read_rows(tmp_path / "rows-fair.csv")) == len(read_rows(tmp_path / "rows-quota.csv")) == 4
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000
    assert "quota" in result.stdout


def test_a_scenario_stands_in_for_a_trace_and_may_be_kept(tmp_path: Path) -> None:
    sizes = ("--jobs", "60", "--users", "5", "--host-count", "2", "--seed", "3")
    first = called("--scenario", "office", *sizes, "--keep", tmp_path, "--out", tmp_path / "one.csv")
    again = called(
        *("--trace", tmp_path / "trace.json", "--hosts", tmp_path / "hosts.json"),
        *("--config", tmp_path / "config.edn", "--out", tmp_path / "other.csv"),
    )

    assert first.exit_code == again.exit_code == 0, first.stderr + again.stderr
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "other.csv").read_text()


def test_keys_without_meaning_are_said(files: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "config.edn").write_text("{:port 1}")

    result = called(*files, "--config", tmp_path / "config.edn", "--out", tmp_path / "rows.csv")

    assert "these keys mean nothing here: :port" in result.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--out", "rows.csv"], "wants --trace and --hosts, or --scenario"),
        (["--scenario", "office", "--trace", "t.json", "--out", "rows.csv"], "give either a trace"),
        (["--scenario", "chaos", "--out", "rows.csv"], "no scenario 'chaos'"),
        (["--scenario", "office", "--policy", "unfair", "--summary"], "no policy 'unfair'"),
        (
            ["--trace", "nowhere.json", "--hosts", "nowhere.json", "--summary"],
            r"nowhere\.json cannot be read",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_line(words: list[str], complaint: str) -> None:
    result = called(*words)

    assert isinstance(result.exception, InvalidRequest)  # `main` tells it in one line
    with pytest.raises(InvalidRequest, match=complaint):
        raise result.exception


def test_a_simulation_nobody_looks_at_is_refused(files: list[str | Path]) -> None:
    result = called(*files)

    assert result.exit_code == 2
    assert "--out, --report or --summary" in result.stderr
