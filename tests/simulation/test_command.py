"""`cook-jupyter simulate`, as called from a shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cook_jupyter.cli import cook_jupyter
from cook_jupyter.errors import InvalidRequest
from cook_jupyter.model.job import JobId
from cook_jupyter.simulation.traces import SimHost, TraceJob, read_rows, write_hosts, write_trace


def run_command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cook_jupyter, ["simulate", *map(str, arguments)])


@pytest.fixture
def files(tmp_path: Path) -> list[str | Path]:
    jobs = [TraceJob(JobId(f"job-{n}"), f"user-{n % 2}", 40_000 * n, 100_000, 1.0, 100.0) for n in range(4)]
    write_trace(tmp_path / "trace.json", jobs)
    write_hosts(tmp_path / "hosts.json", [SimHost("h1", 2.0, 1000.0)])
    return ["--trace", tmp_path / "trace.json", "--hosts", tmp_path / "hosts.json"]


def test_rows_are_written_to_a_file_and_progress_to_stderr(files: list[str | Path], tmp_path: Path) -> None:
    result = run_command(*files, "--out", tmp_path / "rows.csv")

    assert result.exit_code == 0, result.stderr
    assert [row.job_id for row in read_rows(tmp_path / "rows.csv")] == ["job-0", "job-1", "job-2"]
    assert "4 rows" not in result.stdout
    assert "fair: 3 rows in" in result.stderr


def test_each_policy_gets_a_file_of_rows_of_its_own(files: list[str | Path], tmp_path: Path) -> None:
    result = run_command(
        *files,
        *("--policy", "fair", "--policy", "quota", "--until-done", "--cycle-step-ms", "10000"),
        *("--out", tmp_path / "rows.csv", "--report", tmp_path / "report", "--summary"),
    )

    assert result.exit_code == 0, result.stderr
    assert len(read_rows(tmp_path / "rows-fair.csv")) == len(read_rows(tmp_path / "rows-quota.csv")) == 4
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000
    assert "quota" in result.stdout


def test_a_generated_workload_can_be_saved_and_replayed(tmp_path: Path) -> None:
    sizes = ("--jobs", "60", "--users", "5", "--host-count", "2", "--seed", "3")
    first = run_command("--scenario", "office", *sizes, "--keep", tmp_path, "--out", tmp_path / "one.csv")
    again = run_command(
        *("--trace", tmp_path / "trace.json", "--hosts", tmp_path / "hosts.json"),
        *("--config", tmp_path / "config.edn", "--out", tmp_path / "other.csv"),
    )

    assert first.exit_code == again.exit_code == 0, first.stderr + again.stderr
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "other.csv").read_text()


def test_ignored_keys_of_a_configuration_are_reported(files: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "config.edn").write_text("{:port 1}")

    result = run_command(*files, "--config", tmp_path / "config.edn", "--out", tmp_path / "rows.csv")

    assert "ignored keys: :port" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--out", "rows.csv"], "give --trace and --hosts, or --scenario to generate a workload"),
        (["--scenario", "office", "--trace", "t.json", "--out", "rows.csv"], "give either --trace"),
        (["--scenario", "chaos", "--out", "rows.csv"], "unknown scenario 'chaos'"),
        (["--scenario", "chaos"], "unknown scenario 'chaos'"),
        (["--scenario", "chaos", "--out", "missing/rows.csv"], "unknown scenario 'chaos'"),
        (["--scenario", "office", "--policy", "unfair"], "no policy 'unfair'"),
        (["--scenario", "office", "--policy", "quota:nan", "--summary"], "a positive number"),
        (["--scenario", "office", "--policy", "quota:-1", "--summary"], "a positive number"),
        (
            ["--scenario", "office", "--jobs", "0", "--summary"],
            r"office needs at least 4 users and a job for each \(users: 20, jobs: 0\)",
        ),
        (["--scenario", "office", "--host-count", "0", "--summary"], "must be positive and finite"),
        (["--scenario", "office", "--seed", "-1", "--summary"], "seed must be 0 or more"),
        (["--keep", "week", "--summary"], "give --scenario with it"),
        (["--scenario", "office", "--policy", "unfair", "--summary"], "no policy 'unfair'"),
        (
            ["--trace", "nowhere.json", "--hosts", "nowhere.json", "--summary"],
            r"nowhere\.json cannot be read",
        ),
    ],
)
def test_an_invalid_command_line_is_refused_with_one_message(arguments: list[str], complaint: str) -> None:
    result = run_command(*arguments)

    assert isinstance(result.exception, InvalidRequest)  # `main` prints it in one line
    with pytest.raises(InvalidRequest, match=complaint):
        raise result.exception


def test_a_simulation_without_any_output_is_refused(files: list[str | Path]) -> None:
    result = run_command(*files)

    assert result.exit_code == 2
    assert "--out, --report or --summary" in result.stderr


@pytest.mark.parametrize(
    ("option", "name", "complaint"),
    [
        ("--out", "missing/rows.csv", "there is no directory"),
        ("--out", "folder", "is a directory"),
        ("--report", "file", "is a file"),
        ("--report", "file/below", "file/below"),
        ("--out", "trace.json", "is read by this simulation"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_before_the_simulation(
    option: str, name: str, complaint: str, files: list[str | Path], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    content = (tmp_path / "trace.json").read_bytes()

    result = run_command(*files, option, tmp_path / name)

    assert isinstance(result.exception, InvalidRequest)
    assert complaint in str(result.exception)
    assert "\n" not in str(result.exception)
    assert "cycles" not in result.stderr, "the simulation ran"
    assert (tmp_path / "trace.json").read_bytes() == content


def test_with_several_policies_the_file_of_each_is_checked(files: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "rows-fifo.csv").mkdir()

    result = run_command(*files, "--policy", "fair", "--policy", "fifo", "--out", tmp_path / "rows.csv")

    assert "rows-fifo.csv is a directory" in str(result.exception)
    assert not (tmp_path / "rows-fair.csv").exists()


def test_invalid_input_ends_the_process_with_status_2_and_one_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    write_trace(trace, [TraceJob(JobId("j"), "ada", 0, 1, 1.0, 100.0, priority=100_000_000)])
    write_hosts(tmp_path / "hosts.json", [SimHost("h1", 2.0, 1000.0)])

    done = subprocess.run(
        [
            *(sys.executable, "-m", "cook_jupyter", "simulate", "--summary"),
            *("--trace", str(trace), "--hosts", str(tmp_path / "hosts.json")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"cook-jupyter: job 0 (j) of the trace {trace}: job/priority must be in 0..16000000, not 100000000\n"
    )


def test_jobs_that_can_never_run_are_counted_with_the_reason(tmp_path: Path) -> None:
    jobs = [
        TraceJob(JobId("wide"), "ada", 0, 1000, 30.0, 100.0),
        TraceJob(JobId("huge"), "ada", 0, 1000, 50.0, 100.0),
        TraceJob(JobId("fine"), "bob", 0, 1000, 1.0, 100.0),
    ]
    write_trace(tmp_path / "trace.json", jobs)
    write_hosts(tmp_path / "hosts.json", [SimHost("h1", 8.0, 1000.0)])

    result = run_command(
        *("--trace", tmp_path / "trace.json", "--hosts", tmp_path / "hosts.json"),
        *("--summary", "--report", tmp_path / "report", "--out", tmp_path / "report" / "rows.csv"),
    )

    assert result.exit_code == 0, result.stderr
    wide = "it requests 30 cpus, and the largest host has 8"
    huge = "it requests 50 cpus, and no job may have more than 40"
    assert f"1 job removed; job huge: {huge}" in result.stderr
    assert f"1 job fitting no host; job wide: {wide}" in result.stderr
    assert f"Under fair: 1 job fits no host and can never start (job wide: {wide})." in result.stdout
    assert (
        f"Under fair: 1 job was removed because it requests more than any job may have (job huge: {huge})."
        in result.stdout
    )
    page = (tmp_path / "report" / "report.html").read_text()
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert wide in page
    assert huge in page
    [run] = figures["runs"]
    assert (run["fitting_no_host"], run["removed"], run["refused"], run["never_started"]) == (1, 1, 0, 1)
    assert len(figures["notes"]) == 2
    assert "1 row in" in result.stderr


def test_the_summary_states_that_no_job_starts(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.json", [TraceJob(JobId("wide"), "ada", 0, 1000, 30.0, 100.0)])
    write_hosts(tmp_path / "hosts.json", [SimHost("h1", 8.0, 1000.0)])

    result = run_command(
        "--trace", tmp_path / "trace.json", "--hosts", tmp_path / "hosts.json", "--summary", "--until-done"
    )

    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("No job starts under fair.\n")
    assert "nan" not in result.stdout
    assert "inf" not in result.stdout
    assert "1 jobs" not in result.stdout + result.stderr
