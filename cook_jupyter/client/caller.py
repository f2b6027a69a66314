"""The user in whose name a client makes requests.

Lives here: token, user name, and the header made of both.
Not here: valid user names (`wire.users`), permission to act as another user (`api.auth`).
"""

import base64

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.wire.users import process_user, require_user_name


class Caller:
    """The user of one client's requests.

    Args:
        token: token of the user; None if the scheduler needs none.
        user: user name to act as; None for the token's own user, or without a token for the user of this
            process.

    Attributes:
        user: owner of the client's jobs; None until the scheduler has reported the user of the token.

    Raises:
        InvalidRequest: the user name or the token cannot be sent in a request.
    """

    def __init__(self, token: str | None, user: str | None) -> None:
        self.token = token
        self.authorization = authorization(token, user)
        # Without a token the user name is needed; with a token alone, the scheduler determines the user.
        self.named_user = user or (process_user() if token is None else None)
        self.user = self.named_user


def authorization(token: str | None, user: str | None) -> str:
    """Return the value of the header `Authorization`.

    Raises:
        InvalidRequest: the token or the user name cannot be sent in a header.
    """
    if token is not None and not (token.isascii() and token.isprintable()):
        raise InvalidRequest(
            "the token contains a control character or a letter beyond ASCII, and cannot be sent in a header"
        )
    if token is not None and user is None:
        return f"Bearer {token}"
    pair = f"{process_user() if user is None else require_user_name(user)}:{token or ''}"
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
