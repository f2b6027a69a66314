"""Which web pages may ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import ServerSettings
from tests.api.served import POOLS, ApiServer, serving

FRIEND = "https://cors.example.com"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ApiServer]:
    with serving(
        tmp_path,
        settings=Settings(pools=POOLS, server=ServerSettings(cors_origins=(r"https?://cors\.example\.com",))),
    ) as s:
        yield s


def test_a_forbidden_origin_is_refused_before_the_login(served: ApiServer) -> None:
    reply = served.ask("GET", "/pools", by=None, headers={"Origin": "https://evil.example.com"})
    assert reply.status == 403
    assert reply.text == "Cross origin request denied from https://evil.example.com"


def test_a_pattern_must_match_whole(served: ApiServer) -> None:
    assert served.ask("GET", "/pools", headers={"Origin": FRIEND + ".evil.com"}).status == 403


@pytest.mark.parametrize("path", ["/pools", "/nonsense", "/jobs"])
def test_an_allowed_origin_gets_its_headers_even_with_an_error(served: ApiServer, path: str) -> None:
    reply = served.ask("GET", path, headers={"Origin": FRIEND})
    assert reply.headers["Access-Control-Allow-Origin"] == FRIEND
    assert reply.headers["Access-Control-Allow-Credentials"] == "true"


def test_the_origin_of_the_scheduler_is_allowed(served: ApiServer) -> None:
    assert served.ask("GET", "/pools", headers={"Origin": served.url}).status == 200
    https = served.url.replace("http:", "https:")
    assert served.ask("GET", "/pools", headers={"Origin": https}).status == 403
    forwarded = {"Origin": https, "X-Forwarded-Proto": "https"}
    assert served.ask("GET", "/pools", headers=forwarded).status == 200


def test_a_preflight_of_an_allowed_origin_needs_no_login(served: ApiServer) -> None:
    headers = {"Origin": FRIEND, "Access-Control-Request-Headers": "Foo, Bar"}
    reply = served.ask("OPTIONS", "/jobs", by=None, headers=headers)
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["Access-Control-Allow-Headers"] == "Foo, Bar"
    assert reply.headers["Access-Control-Allow-Methods"] == "PUT, GET, OPTIONS, DELETE"
    assert reply.headers["Access-Control-Max-Age"] == "86400"


def test_a_preflight_of_a_forbidden_origin_is_refused(served: ApiServer) -> None:
    reply = served.ask("OPTIONS", "/jobs", by=None, headers={"Origin": "http://bad.example.com"})
    assert reply.status == 403
    assert reply.text == "Origin http://bad.example.com not allowed"
