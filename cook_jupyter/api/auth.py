"""Authentication and impersonation.

Lives here: authenticators, which derive an `Identity` from the headers of a request; impersonation; and the
refusal to listen on the network without an authenticator that authenticates users.
Not here: what an identity may do (each handler), where the token is stored (`cli`, `service`).

Source: the REST specification, section 2.
"""

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from cook_jupyter.errors import Forbidden, InvalidRequest, Unauthenticated
from cook_jupyter.wire.users import process_user, require_user_name

IMPERSONATE_HEADER = "X-Cook-Impersonate"
BASIC_CHALLENGE = 'Basic realm="Cook"'

_USER_NAME = re.compile(r"\A[a-z][a-z0-9_-]{0,62}[a-z0-9]\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The user of a request.

    Attributes:
        user: name of the user for whom the request acts.
        is_admin: whether the user is an administrator, who may do everything.
        is_owner: whether the request is from the owner of an embedded scheduler, under their own name.
        impersonator: the user who acts for `user`; None without impersonation.
    """

    user: str
    is_admin: bool = False
    is_owner: bool = False
    impersonator: str | None = None

    def may_act_on(self, owner: str) -> bool:
        """Return whether the user may change the jobs of `owner`: their own, or those of all for an admin."""
        return self.is_admin or self.user == owner


class Authenticator(Protocol):
    """Derives the identity of a request from its headers."""

    @property
    def scheme(self) -> str:
        """Name of the authentication scheme in `/info`."""

    @property
    def challenge(self) -> str:
        """Value of the `WWW-Authenticate` header of a refusal."""

    @property
    def authenticates_users(self) -> bool:
        """Whether users cannot pass for each other, so that other machines may reach the scheduler."""

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return the identity of a request.

        Raises:
            Unauthenticated: the headers have no valid credentials.
        """


class TokenAuthenticator:
    """The authenticator of an embedded scheduler: its owner has the token, and may act under any name.

    `Authorization: Bearer TOKEN` authenticates the owner, `Basic base64(NAME:TOKEN)` the owner acting as
    NAME. The owner is an administrator; other names are ordinary users unless they are in `admins`.
    """

    scheme = "http-basic"
    challenge = BASIC_CHALLENGE
    authenticates_users = False  # all names share one secret, which is sent in the clear

    def __init__(self, token: str, *, owner: str | None = None, admins: Collection[str] = ()) -> None:
        """Create an authenticator for a token.

        Args:
            token: the secret in the runtime file.
            owner: name of the owner; None for the Unix user of this process.
            admins: other names that are administrators.

        Raises:
            InvalidRequest: the token is empty.
        """
        if not token:
            raise InvalidRequest("an embedded scheduler needs a token that is not empty")
        self._token = token.encode()
        self._owner = owner or process_user()
        self._admins = frozenset(admins)

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return the owner, or the name under which the owner acts."""
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            name, token = self._owner, credentials.strip()
        elif scheme.lower() == "basic":
            name, token = _basic(credentials)
        else:
            raise Unauthenticated(
                "authentication required: send the token of the runtime file as Authorization: Bearer TOKEN,"
                " or as Basic NAME:TOKEN to act as NAME"
            )
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            raise Unauthenticated("the token is not that of this scheduler: read its runtime file again")
        if name == self._owner:
            return Identity(user=name, is_admin=True, is_owner=True)
        return Identity(user=name, is_admin=name in self._admins)


class SingleUserAuthenticator:
    """An authenticator that attributes every request to one user; for tests and single-user machines."""

    scheme = "one-user"
    challenge = BASIC_CHALLENGE
    authenticates_users = False

    def __init__(self, user: str, *, admins: Collection[str] = ()) -> None:
        self._identity = Identity(user=user, is_admin=user in admins)

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return the identity of the configured user."""
        return self._identity


class BasicAuthenticator:
    """HTTP basic authentication, with or without checking the passwords.

    Without a list of logins every name is accepted with any password, like Cook's `http-basic`. That is
    suitable for tests and behind a proxy that checks passwords, but not for a network.

    Args:
        logins: password of each user; None accepts every name.
        admins: names of the administrators.
    """

    scheme = "http-basic"
    challenge = BASIC_CHALLENGE

    def __init__(self, *, logins: Mapping[str, str] | None = None, admins: Collection[str] = ()) -> None:
        self._logins = logins
        self._admins = frozenset(admins)

    @property
    def authenticates_users(self) -> bool:
        """Whether there is a list of logins."""
        return self._logins is not None

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return the identity of the user in the Authorization header."""
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            raise Unauthenticated("authentication required: send Authorization: Basic NAME:PASSWORD")
        name, password = _basic(credentials)
        if self._logins is not None:
            expected = self._logins.get(name, "")
            matches = hmac.compare_digest(password.encode("utf-8", "surrogateescape"), expected.encode())
            if not matches or name not in self._logins:
                raise Unauthenticated("the name or the password is wrong")
        return Identity(user=name, is_admin=name in self._admins)


def impersonate(
    identity: Identity,
    target: str | None,
    *,
    impersonators: Collection[str],
    admins: Collection[str],
    allowed: bool,
) -> Identity:
    """Return the identity of a request after its `X-Cook-Impersonate` header is applied.

    Args:
        identity: the identity that authenticated.
        target: value of the header, the user to act for; None without the header.
        impersonators: users who may act for others; if there are none, the header is ignored.
        admins: names of the administrators.
        allowed: whether the action permits impersonation.

    Raises:
        Forbidden: the user may not impersonate, or the action does not permit it.
    """
    if target is None or not impersonators or target == identity.user:
        return identity
    if identity.user not in impersonators:
        raise Forbidden(f"User {identity.user} does not have impersonation privileges.")
    if not allowed:
        raise Forbidden(f"User {identity.user} may not do this for somebody else.")
    return Identity(user=target, is_admin=target in admins, impersonator=identity.user)


def is_user_name(name: str) -> bool:
    """Return whether a name may own jobs: 2 to 64 lower case letters, digits, `_` and `-`."""
    return _USER_NAME.match(name) is not None


def require_safe_address(host: str | None, authenticator: Authenticator) -> None:
    """Refuse an address that other machines can reach unless users are authenticated.

    Args:
        host: the address to listen on; None for a Unix socket.
        authenticator: the authenticator of the server.

    Raises:
        InvalidRequest: other machines can reach the address, and users could pass for each other.
    """
    if host is None or _is_loopback(host) or authenticator.authenticates_users:
        return
    raise InvalidRequest(
        f"refusing to listen on {host}: other machines could reach it, and users are not authenticated;"
        " listen on 127.0.0.1 or on a Unix socket (--socket)"
    )


def is_expected_host(name: str, *, listening_on: str, allowed: Collection[str]) -> bool:
    """Return whether the `Host` header of a request may have this name.

    A web page can make its own host name resolve to this machine ("DNS rebinding"), so that its requests
    count as same-origin. They still carry the host name of the page, which cannot be an address or
    `localhost`.

    Args:
        name: host in the header, without a port.
        listening_on: address that the scheduler listens on.
        allowed: additional names; if there are none, a scheduler on a non-local address accepts any name.
    """
    name = name.lower().rstrip(".")
    if name in {other.lower() for other in allowed} or name == listening_on.strip("[]").lower():
        return True
    if not allowed and not _is_loopback(listening_on):
        return True
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _basic(credentials: str) -> tuple[str, str]:
    """Decode the name and the password of a Basic header."""
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise Unauthenticated("the Basic header is not base64 of NAME:PASSWORD") from None
    name, colon, password = text.partition(":")
    if not name or not colon:
        raise Unauthenticated("the Basic header is not base64 of NAME:PASSWORD")
    try:
        return require_user_name(name), password
    except InvalidRequest as error:
        raise Unauthenticated(str(error)) from None
