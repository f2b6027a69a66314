"""Whatever is sent, the fault is never said to be ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cook_jupyter.api.routes import ROUTES
from cook_jupyter.store.sqlite import SqliteStore
from tests.api.served import ApiServer, a_request, serving

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20).filter(lambda text: not any("\ud800" <= sign <= "\udfff" for sign in text)),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.sampled_from(["jobs", "job", "uuid", "pool", "x", ""]), below, max_size=4)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        "uuid job instance user state start end limit name pool partial detailed group_breakdown reason",
        "path offset length cursor label stream wait since-hours-ago start-ms end-ms retries",
    ]
).flatmap(lambda words: st.sampled_from(words.split()))
VALUES = (
    st.text(max_size=12)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(["true", "running", "owner", "0", "-1", "2020-01-01", "*", str(uuid4()), "%", "\0"])
)
PATHS = sorted(path for path, _ in ROUTES if path not in ("/v1/shutdown", "/v1/events"))
POSTS = ["/jobs", "/rawscheduler", "/retry", "/share", "/quota", f"/progress/{uuid4()}"]
OFTEN = settings(max_examples=120, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    with serving(folder, store=SqliteStore(folder / "store.sqlite")) as running:
        yield running


@OFTEN
@given(path=st.sampled_from(POSTS), method=st.sampled_from(["POST", "PUT"]), body=JSON)
def test_any_json(fuzzed: ApiServer, path: str, method: str, body: object) -> None:
    assert fuzzed.ask(method, path, body).status < 500


@OFTEN
@given(path=st.sampled_from(POSTS), body=st.binary(max_size=300))
def test_any_bytes(fuzzed: ApiServer, path: str, body: bytes) -> None:
    assert fuzzed.ask("POST", path, body).status < 500


@OFTEN
@given(
    changes=st.dictionaries(
        st.sampled_from(
            [
                *a_request(),
                "env",
                "labels",
                "name",
                "priority",
                "container",
                "uris",
                "disk",
                "checkpoint",
                "constraints",
                "group",
                "max_runtime",
                "ports",
                "application",
            ]
        ),
        JSON,
        max_size=3,
    )
)
def test_a_job_with_some_odd_fields(fuzzed: ApiServer, changes: dict[str, Any]) -> None:
    assert fuzzed.ask("POST", "/jobs", {"jobs": [{**a_request(cpus=1000), **changes}]}).status < 500


@OFTEN
@given(
    path=st.sampled_from(PATHS),
    method=st.sampled_from(["GET", "DELETE", "HEAD"]),
    query=st.lists(st.tuples(KEYS, VALUES), max_size=5),
    last=st.text(max_size=10) | st.just(str(uuid4())),
)
def test_any_query(
    fuzzed: ApiServer, path: str, method: str, query: list[tuple[str, str]], last: str
) -> None:
    url = path.replace(":uuid", quote(last, safe="")).replace(":name", quote(last, safe=""))
    pairs = "&".join(f"{key}={quote(value, safe='')}" for key, value in query)
    assert fuzzed.ask(method, f"{url}?{pairs}").status < 500


@OFTEN
@given(query=st.binary(max_size=60), path=st.sampled_from(PATHS))
def test_any_bytes_in_a_query(fuzzed: ApiServer, query: bytes, path: str) -> None:
    assert (
        fuzzed.ask("GET", f"{path}?uuid={quote(query)}&path={quote(query)}&user={quote(query)}").status < 500
    )
