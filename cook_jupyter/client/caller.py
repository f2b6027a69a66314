"""Whom a client's requests are made as.

Lives here: token, name, and the header made of both.
Not here: which names a request can carry (`wire.users`), who may act as whom (`api.auth`).
"""

import base64

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.wire.users import process_user, require_user_name


class Caller:
    """Who makes the requests of one client.

    Args:
        token: what the scheduler knows its user by; None where it needs none.
        user: act as this user; None means the token's own, or without a token the user of this process.

    Attributes:
        user: whose jobs these are; None until the scheduler has said whom it knows the token by.

    Raises:
        InvalidRequest: no request can carry the name or the token.
    """

    def __init__(self, token: str | None, user: str | None) -> None:
        self.token = token
        self.authorization = authorization(token, user)
        # Without a token the name is all there is; with one alone, the scheduler knows whose it is.
        self.named_user = user or (process_user() if token is None else None)
        self.user = self.named_user


def authorization(token: str | None, user: str | None) -> str:
    """Return the header `Authorization`.

    Raises:
        InvalidRequest: no header can carry the token or the name.
    """
    if token is not None and not (token.isascii() and token.isprintable()):
        raise InvalidRequest(
            "the token contains a control character or a letter beyond ASCII: no header can carry it"
        )
    if token is not None and user is None:
        return f"Bearer {token}"
    pair = f"{process_user() if user is None else require_user_name(user)}:{token or ''}"
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
