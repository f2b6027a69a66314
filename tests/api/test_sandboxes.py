"""What instances wrote: /files/* as Cook's clients read it, /v1/logs as ours do."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from cook_jupyter.model.instance import InstanceId
from tests.api.served import OWNER, ApiServer, Reply, authorization


@pytest.fixture
def task(served: ApiServer) -> InstanceId:
    """An instance that runs."""
    return served.started(served.submit())


@pytest.fixture
def sandbox(served: ApiServer, task: InstanceId, tmp_path: Path) -> Path:
    """Its sandbox, with some output."""
    directory = tmp_path / "sandboxes" / task
    (directory / "sub").mkdir(parents=True)
    (directory / "stdout").write_bytes(b"one\ntwo\n\xff")
    (directory / "odd [name]?*").write_text("odd")
    served.give_sandbox(task, directory)
    return directory


def files(served: ApiServer, verb: str, **query: Any) -> Reply:
    return served.ask("GET", f"/files/{verb}", **query)


class TestFiles:
    def test_the_output_url_leads_to_the_sandbox(self, served: ApiServer, task: str, sandbox: Path) -> None:
        instance = served.ask("GET", f"/instances/{task}").json
        assert instance["output_url"] == f"{served.url}/files/read.json?path={quote(str(sandbox), safe='')}"
        assert instance["sandbox_directory"] == str(sandbox)
        path = instance["output_url"].removeprefix(served.url) + "/stdout&offset=0"
        assert served.ask("GET", path).json == {"data": "one\ntwo\n�", "offset": 0}

    def test_browse_lists_a_directory(self, served: ApiServer, sandbox: Path) -> None:
        told = {Path(entry["path"]).name: entry for entry in files(served, "browse", path=sandbox).json}
        assert set(told) == {"stdout", "sub", "odd [name]?*"}
        assert told["sub"]["nlink"] > 1
        assert told["stdout"]["nlink"] == 1
        assert told["stdout"]["size"] == 9
        assert told["stdout"]["path"] == f"{sandbox}/stdout"
        assert told["stdout"]["mode"].startswith("-r")

    def test_in_a_file_there_is_nothing_to_list(self, served: ApiServer, sandbox: Path) -> None:
        assert files(served, "browse.json", path=sandbox / "stdout").json == []

    def test_download_sends_the_bytes(self, served: ApiServer, sandbox: Path) -> None:
        (sandbox / "big").write_bytes(bytes(range(256)) * 8192)
        assert files(served, "download", path=sandbox / "stdout").body == b"one\ntwo\n\xff"
        assert files(served, "download", path=sandbox / "big").body == bytes(range(256)) * 8192
        assert files(served, "download", path=sandbox / "odd [name]?*").body == b"odd"

    def test_a_client_that_disconnects_is_no_error(
        self, served: ApiServer, sandbox: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with (sandbox / "huge").open("wb") as file:
            file.truncate(20 * 1024 * 1024)
        with served.raw() as connection:
            login = "".join(f"{name}: {value}\r\n" for name, value in authorization(OWNER).items())
            path = quote(str(sandbox / "huge"))
            connection.sendall(
                f"GET /files/download?path={path} HTTP/1.1\r\nHost: localhost\r\n{login}\r\n".encode()
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert served.ask("GET", "/pools").status == 200
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    def test_read_takes_ranges(self, served: ApiServer, sandbox: Path) -> None:
        path = sandbox / "stdout"
        assert files(served, "read", path=path).json == {"data": "", "offset": 9}
        assert files(served, "read", path=path, offset=-1).json == {"data": "", "offset": 9}
        assert files(served, "read", path=path, offset=4, length=3).json == {"data": "two", "offset": 4}
        assert files(served, "read", path=path, offset=100, length=-1).json == {"data": "", "offset": 100}

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            ({}, "Expecting 'path=value'"),
            ({"path": "/x", "offset": "a"}, "Failed to parse offset"),
            ({"path": "/x", "length": "a"}, "Failed to parse length"),
            ({"path": "/x", "offset": -2}, "Negative offset provided"),
            ({"path": "/x", "length": -2}, "Negative length provided"),
        ],
    )
    def test_errors_have_the_messages_of_a_mesos_agent(
        self, served: ApiServer, query: dict[str, Any], text: str
    ) -> None:
        reply = files(served, "read", **query)
        assert (reply.status, reply.json) == (400, {"error": text})

    @pytest.mark.parametrize("verb", ["read", "download"])
    def test_a_directory_is_refused(self, served: ApiServer, sandbox: Path, verb: str) -> None:
        reply = files(served, verb, path=sandbox / "sub")
        assert (reply.status, reply.json) == (400, {"error": f"Cannot {verb} a directory"})

    def test_nothing_outside_a_sandbox_can_be_read(
        self, served: ApiServer, sandbox: Path, tmp_path: Path
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_text("secret")
        (sandbox / "way-out").symlink_to(secret)
        (sandbox / "dir-out").symlink_to(tmp_path)
        for path in (
            secret,
            sandbox / "way-out",
            sandbox / "dir-out" / "secret",
            f"{sandbox}/../../secret",
            f"{tmp_path}/{uuid4()}",
            sandbox / "missing",
            f"{sandbox}/\0",
            sandbox.name,
        ):
            for verb in ("read", "download", "browse"):
                assert files(served, verb, path=path).status == 404, path

    def test_a_pipe_is_not_waited_for(self, served: ApiServer, sandbox: Path) -> None:
        os.mkfifo(sandbox / "pipe")
        assert files(served, "download", path=sandbox / "pipe").status == 404
        assert files(served, "read", path=sandbox / "pipe", offset=0).status == 404

    def test_a_sandbox_that_was_removed_is_said_to_be(self, served: ApiServer, sandbox: Path) -> None:
        shutil.rmtree(sandbox)
        reply = files(served, "read", path=sandbox / "stdout", offset=0)
        assert reply.status == 404
        assert f"the sandbox of instance {sandbox.name} was removed" in reply.json["error"]


class TestLogs:
    def logs(self, served: ApiServer, uuid: str, **query: Any) -> tuple[bytes, int, int, bool]:
        reply = served.ask("GET", f"/v1/logs/{uuid}", **query)
        assert reply.status == 200, reply.text
        headers = reply.headers
        return (
            reply.body,
            int(headers["X-Cook-Offset"]),
            int(headers["X-Cook-Size"]),
            headers["X-Cook-Ended"] == "true",
        )

    def test_an_instances_output_is_sent_in_ranges(self, served: ApiServer, task: str, sandbox: Path) -> None:
        assert self.logs(served, task) == (b"one\ntwo\n\xff", 0, 9, False)
        assert self.logs(served, task, offset=4, length=3) == (b"two", 4, 9, False)
        assert self.logs(served, task, stream="stderr") == (b"", 0, 0, False)

    def test_a_jobs_uuid_means_its_latest_instance(self, served: ApiServer, task: str, sandbox: Path) -> None:
        uuid = served.ask("GET", f"/instances/{task}").json["job"]["uuid"]
        assert self.logs(served, uuid)[0] == b"one\ntwo\n\xff"

    def test_the_response_says_whether_the_instance_has_ended(
        self, served: ApiServer, task: str, sandbox: Path
    ) -> None:
        uuid = served.ask("GET", f"/instances/{task}").json["job"]["uuid"]
        served.finish(uuid)
        assert self.logs(served, uuid, offset=9, wait=20) == (b"", 9, 9, True)

    def test_a_job_that_never_ran_has_written_nothing(self, served: ApiServer) -> None:
        assert self.logs(served, served.submit(cpus=1000)) == (b"", 0, 0, False)

    def test_of_a_sandbox_that_was_removed_there_is_no_output(
        self, served: ApiServer, task: str, sandbox: Path
    ) -> None:
        shutil.rmtree(sandbox)
        assert self.logs(served, task, offset=4) == (b"", 4, 0, False)

    def test_waiting_ends_when_something_is_written(
        self, served: ApiServer, task: str, sandbox: Path
    ) -> None:
        def write() -> None:
            with (sandbox / "stdout").open("ab") as file:
                file.write(b"three")

        threading.Timer(0.1, write).start()
        assert self.logs(served, task, offset=9, wait=20) == (b"three", 9, 14, False)

    def test_waiting_ends_when_the_time_is_up(self, served: ApiServer, task: str, sandbox: Path) -> None:
        assert self.logs(served, task, offset=9, wait=0.05) == (b"", 9, 9, False)

    def test_a_link_in_the_place_of_the_output_is_not_followed(
        self, served: ApiServer, task: str, sandbox: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("secret")
        (sandbox / "stderr").symlink_to(tmp_path / "secret")
        assert self.logs(served, task, stream="stderr") == (b"", 0, 0, False)

    @pytest.mark.parametrize(
        "query",
        [{"stream": "stdin"}, {"offset": -1}, {"length": "x"}, {"wait": "x"}, {"wait": "nan"}, {"wait": -1}],
    )
    def test_invalid_values_are_refused(self, served: ApiServer, task: str, query: dict[str, Any]) -> None:
        assert served.ask("GET", f"/v1/logs/{task}", **query).status == 400

    def test_unknown_ones_are_not_found(self, served: ApiServer) -> None:
        assert served.ask("GET", f"/v1/logs/{uuid4()}").status == 404
        assert served.ask("GET", "/v1/logs/nonsense").status == 400
