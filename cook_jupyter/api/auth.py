"""Who asks, and for whom.

Lives here: authenticators (a request's headers in, an `Identity` out), impersonation, and the refusal to
listen to the network without one that tells users apart.
Not here: what an identity may do (each handler says so), where the token is kept (`cli`, `service`).

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
    """Who a request is from.

    Attributes:
        user: the name under which it acts.
        is_admin: may do everything.
        is_owner: the Unix user to whom an embedded scheduler belongs, as themselves.
        caller: the impersonator who acts for `user`; None if nobody does.
    """

    user: str
    is_admin: bool = False
    is_owner: bool = False
    caller: str | None = None

    def may_act_on(self, owner: str) -> bool:
        """Tell whether things of `owner` may be changed: one's own, or all by an admin."""
        return self.is_admin or self.user == owner


class Authenticator(Protocol):
    """Tells from its headers who a request is from."""

    @property
    def scheme(self) -> str:
        """What `/info` calls it."""

    @property
    def challenge(self) -> str:
        """The value of `WWW-Authenticate` in a refusal."""

    @property
    def tells_strangers_apart(self) -> bool:
        """Whether it is fit to be reached from other machines."""

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return who asks.

        Raises:
            Unauthenticated: the headers do not say, or say it wrongly.
        """


class TokenAuthenticator:
    """For an embedded scheduler: whoever has the token is its Unix user, who may act under any name.

    `Authorization: Bearer TOKEN` is the owner, `Basic base64(NAME:TOKEN)` acts as NAME. The owner is an
    administrator; other names are ordinary users unless they are among `admins`.
    """

    scheme = "http-basic"
    challenge = BASIC_CHALLENGE
    tells_strangers_apart = False  # one secret, in the clear, for every name

    def __init__(self, token: str, *, owner: str | None = None, admins: Collection[str] = ()) -> None:
        """Make one for a token.

        Args:
            token: the secret of the runtime file.
            owner: the Unix user to whom it belongs; None is who runs this process.
            admins: other names that may do everything.
        """
        if not token:
            raise InvalidRequest("an embedded scheduler needs a token that is not empty")
        self._token = token.encode()
        self._owner = owner or process_user()
        self._admins = frozenset(admins)

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return the owner, or the name under which the owner acts."""
        kind, _, said = headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            name, token = self._owner, said.strip()
        elif kind.lower() == "basic":
            name, token = _basic(said)
        else:
            raise Unauthenticated(
                "this scheduler wants the token of its runtime file: Authorization: Bearer TOKEN,"
                " or Basic with NAME:TOKEN to act as NAME"
            )
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            raise Unauthenticated("the token is not that of this scheduler: read its runtime file again")
        if name == self._owner:
            return Identity(user=name, is_admin=True, is_owner=True)
        return Identity(user=name, is_admin=name in self._admins)


class OneUser:
    """Every request is from the configured user; for one's own machine and for tests."""

    scheme = "one-user"
    challenge = BASIC_CHALLENGE
    tells_strangers_apart = False

    def __init__(self, user: str, *, admins: Collection[str] = ()) -> None:
        self._identity = Identity(user=user, is_admin=user in admins)

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return the one user."""
        return self._identity


class HttpBasic:
    """The name in the header, with any password unless a list of logins is given.

    Without a list this trusts everybody to say who they are, as Cook's `http-basic` does: fit for tests
    and behind a proxy that checks, not for a network.
    """

    scheme = "http-basic"
    challenge = BASIC_CHALLENGE

    def __init__(self, *, logins: Mapping[str, str] | None = None, admins: Collection[str] = ()) -> None:
        self._logins = logins
        self._admins = frozenset(admins)

    @property
    def tells_strangers_apart(self) -> bool:
        """Only with a list of logins."""
        return self._logins is not None

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return the user whom the header names."""
        kind, _, said = headers.get("Authorization", "").partition(" ")
        if kind.lower() != "basic":
            raise Unauthenticated("say who you are: Authorization: Basic with NAME:PASSWORD")
        name, password = _basic(said)
        if self._logins is not None:
            known = self._logins.get(name, "")
            same = hmac.compare_digest(password.encode("utf-8", "surrogateescape"), known.encode())
            if not same or name not in self._logins:
                raise Unauthenticated("the name or the password is wrong")
        return Identity(user=name, is_admin=name in self._admins)


def acting_as(
    identity: Identity,
    named: str | None,
    *,
    impersonators: Collection[str],
    admins: Collection[str],
    allowed: bool,
) -> Identity:
    """Return who a request acts as, given its `X-Cook-Impersonate` header.

    Args:
        identity: who asks.
        named: the header's value; None if there is no header.
        impersonators: who may act for others. Empty: the header is ignored.
        admins: who is an administrator, also when acted for.
        allowed: whether the action is one that may be done for somebody else.

    Raises:
        Forbidden: the caller may not, or the action may not.
    """
    if named is None or not impersonators or named == identity.user:
        return identity
    if identity.user not in impersonators:
        raise Forbidden(f"User {identity.user} does not have impersonation privileges.")
    if not allowed:
        raise Forbidden(f"User {identity.user} may not do this for somebody else.")
    return Identity(user=named, is_admin=named in admins, caller=identity.user)


def is_user_name(name: str) -> bool:
    """Tell whether a name may own jobs: 2 to 64 lower case letters, digits, `_` and `-`."""
    return _USER_NAME.match(name) is not None


def require_safe_address(host: str | None, authenticator: Authenticator) -> None:
    """Refuse to be reachable from other machines unless users are told apart.

    Args:
        host: the address to listen on; None for a Unix socket.
        authenticator: who tells users apart.

    Raises:
        InvalidRequest: the address is not this machine's alone, and anybody could say to be anybody.
    """
    if host is None or _is_loopback(host) or authenticator.tells_strangers_apart:
        return
    raise InvalidRequest(
        f"refusing to listen on {host}: other machines could reach it, and no authenticator is configured"
        " that tells their users apart. Listen on 127.0.0.1 or on a Unix socket (--socket)"
    )


def is_expected_host(name: str, *, listening_on: str, allowed: Collection[str]) -> bool:
    """Return whether a request may name the scheduler like this in its `Host` header.

    A web page can let its own host name resolve to this machine ("DNS rebinding"); its requests then count as
    being of the same origin. They still carry the page's name, which cannot be an address or `localhost`.

    Args:
        name: the host of the header, without a port.
        listening_on: the address that the scheduler listens on.
        allowed: further names. If there are none, a scheduler that other machines can reach takes any name.
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


def _basic(said: str) -> tuple[str, str]:
    """The name and the password of a Basic header."""
    try:
        text = base64.b64decode(said.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise Unauthenticated("the Basic header is not base64 of NAME:PASSWORD") from None
    name, colon, password = text.partition(":")
    if not name or not colon:
        raise Unauthenticated("the Basic header is not base64 of NAME:PASSWORD")
    try:
        return require_user_name(name), password
    except InvalidRequest as error:
        raise Unauthenticated(str(error)) from None
