"""Who may come in, as whom, and from where."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from cook_jupyter.api.auth import (
    Authenticator,
    BasicAuthenticator,
    Identity,
    SingleUserAuthenticator,
    TokenAuthenticator,
    is_user_name,
    require_safe_address,
)
from cook_jupyter.errors import InvalidRequest, Unauthenticated
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import ServerSettings
from tests.api.served import POOLS, ApiServer, a_request, authorization, serving


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_the_bearer_of_the_token_is_its_owner_and_may_do_everything() -> None:
    asker = TokenAuthenticator("secret", owner="ada").identify({"Authorization": "Bearer secret"})
    assert asker == Identity(user="ada", is_admin=True, is_owner=True)


def test_the_token_permits_acting_under_another_name_without_the_rights_of_the_owner() -> None:
    asker = TokenAuthenticator("secret", owner="ada").identify(basic("bob:secret"))
    assert asker == Identity(user="bob")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Negotiate abc"},
        basic("bob:wrong"),
        basic("bob"),
        basic(":secret"),
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:secret").decode()},
    ],
)
def test_a_request_without_the_token_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        TokenAuthenticator("secret", owner="ada").identify(headers)


def test_an_empty_token_is_refused_from_the_start() -> None:
    with pytest.raises(InvalidRequest):
        TokenAuthenticator("", owner="ada")


def test_http_basic_takes_any_password_unless_logins_are_configured() -> None:
    assert BasicAuthenticator(admins={"root"}).identify(basic("root:")) == Identity(
        user="root", is_admin=True
    )
    assert BasicAuthenticator(logins={"ada": "pw"}).identify(basic("ada:pw")).user == "ada"
    for wrong in ("ada:", "ada:px", "eve:", "eve:pw"):
        with pytest.raises(Unauthenticated):
            BasicAuthenticator(logins={"ada": "pw"}).identify(basic(wrong))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com"])
@pytest.mark.parametrize("authenticator", [SingleUserAuthenticator("ada"), BasicAuthenticator()])
def test_a_network_address_needs_an_authenticator_that_authenticates_users(
    host: str, authenticator: Authenticator
) -> None:
    with pytest.raises(InvalidRequest, match="refusing to listen"):
        require_safe_address(host, authenticator)
    require_safe_address(host, BasicAuthenticator(logins={"ada": "pw"}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost", None])
def test_a_local_address_needs_no_such_authenticator(host: str | None) -> None:
    require_safe_address(host, SingleUserAuthenticator("ada"))


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("ab", True),
        ("queue_limits0", True),
        ("a", False),
        ("Ab", False),
        ("a-", False),
        ("1a", False),
        ("a" * 64, True),
        ("a" * 65, False),
        ("ab\n", False),
    ],
)
def test_a_user_name_has_2_to_64_signs(name: str, valid: bool) -> None:
    assert is_user_name(name) is valid


def test_a_request_without_login_gets_a_challenge(served: ApiServer) -> None:
    reply = served.ask("GET", "/jobs", by=None)
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="Cook"'
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert reply.headers["X-Cook-Error"] == "Unauthenticated"


@pytest.mark.parametrize("path", ["/info", "/metrics", "/debug"])
def test_some_routes_need_no_login(served: ApiServer, path: str) -> None:
    assert served.ask("GET", path, by=None).status == 200


def test_login_comes_before_the_route_and_the_shape_before_the_permission(served: ApiServer) -> None:
    assert served.ask("GET", "/nonsense", by=None).status == 401
    malformed = served.ask("POST", "/share", {"user": "ada"}, by="bob")
    assert malformed.status == 400
    assert malformed.json == {"errors": {"reason": "missing-required-key", "share": "missing-required-key"}}
    assert served.ask("POST", "/share", {"user": "ada", "reason": "r", "share": {}}, by="bob").status == 403


def test_an_invalid_user_name_cannot_submit_jobs(served: ApiServer) -> None:
    reply = served.ask("POST", "/jobs", {"jobs": [a_request()]}, by="Not Good")
    assert reply.status == 400
    assert "user name" in reply.json["error"]


class TestImpersonation:
    @pytest.fixture
    def served(self, tmp_path: Path) -> Iterator[ApiServer]:
        settings = Settings(
            pools=POOLS,
            server=ServerSettings(impersonators=frozenset({"poser"}), admins=frozenset({"root"})),
        )
        with serving(
            tmp_path, settings=settings, authenticator=BasicAuthenticator(admins={"root"})
        ) as running:
            yield running

    def ask(
        self, served: ApiServer, method: str, path: str, *, by: str, as_: str, body: object = None
    ) -> int:
        headers = {**authorization(by, "x"), "X-Cook-Impersonate": as_}
        return served.ask(method, path, body, by=None, headers=headers).status

    def test_an_impersonator_acts_as_the_user_named(self, served: ApiServer) -> None:
        job = a_request()
        assert self.ask(served, "POST", "/jobs", by="poser", as_="ada", body={"jobs": [job]}) == 201
        told = served.ask("GET", f"/jobs/{job['uuid']}", by="ada").json
        assert told["user"] == "ada"
        assert self.ask(served, "DELETE", f"/rawscheduler?job={job['uuid']}", by="poser", as_="bob") == 403
        assert self.ask(served, "DELETE", f"/rawscheduler?job={job['uuid']}", by="poser", as_="ada") == 204

    def test_an_impersonator_has_no_rights_of_their_own(self, served: ApiServer) -> None:
        uuid = served.submit(user="ada")
        assert served.ask("DELETE", f"/rawscheduler?job={uuid}", by="poser").status == 403

    def test_limits_may_be_read_for_others_but_not_set(self, served: ApiServer) -> None:
        body = {"user": "ada", "reason": "r", "share": {"cpus": 1}}
        assert self.ask(served, "GET", "/share?user=ada", by="poser", as_="root") == 200
        assert self.ask(served, "POST", "/share", by="poser", as_="root", body=body) == 403
        assert self.ask(served, "GET", "/queue", by="poser", as_="root") == 403
        assert self.ask(served, "GET", "/usage?user=ada", by="poser", as_="ada") == 200

    def test_only_impersonators_may_impersonate_not_even_admins(self, served: ApiServer) -> None:
        for caller in ("root", "ada"):
            headers = {**authorization(caller, "x"), "X-Cook-Impersonate": "bob"}
            reply = served.ask("GET", "/jobs", by=None, headers=headers)
            assert reply.status == 403
            assert reply.text == f"User {caller} does not have impersonation privileges."

    def test_impersonating_oneself_changes_nothing(self, served: ApiServer) -> None:
        assert self.ask(served, "GET", "/queue", by="root", as_="root") == 200


def test_without_impersonators_the_header_is_ignored(served: ApiServer) -> None:
    assert served.ask("GET", "/queue", headers={"X-Cook-Impersonate": "bob"}).status == 200
