"""Names of users as requests carry them.

Lives here: the name under which this process acts when nobody named one, and which names the header
`Authorization: Basic` can carry.
Not here: which names may own jobs at this scheduler (`api.auth`), who may act as whom (`api.auth`).

Source: RFC 7617, section 2: in Basic a user-id ends at the first colon and holds no control character.
"""

import getpass
import os
import pwd
import unicodedata

from cook_jupyter.errors import InvalidRequest, WrongType

MAX_NAME_BYTES = 255


def process_user() -> str:
    """The name of the user of this process: of the environment, else of the system, else made of the uid.

    In a container the uid often has no name; it is then called `uid1000`.
    """
    try:
        return require_user_name(getpass.getuser())
    except (KeyError, OSError, InvalidRequest):  # no name anywhere, or one that no request can carry
        pass
    try:
        return require_user_name(pwd.getpwuid(os.getuid()).pw_name)
    except (KeyError, InvalidRequest):
        return f"uid{os.getuid()}"


def require_user_name(name: str) -> str:
    """Return `name` if a request can carry it.

    Raises:
        InvalidRequest: it cannot; the message says why and what to do.
        WrongType: it is no text.
    """
    if not isinstance(name, str):
        raise WrongType(f"a user name must be a text, not {name!r}")
    if fault := _fault_of(name):
        raise InvalidRequest(
            f"the user name {name[:80]!r} {fault}: the header that carries it (HTTP Basic) cannot."
            " Use another name; letters, digits, '_' and '-' always do"
        )
    return name


def _fault_of(name: str) -> str | None:
    """What keeps a name out of the header, as a predicate; None if nothing does."""
    if not name.strip():
        return "is empty"
    if ":" in name:
        return "contains a colon"
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            return f"contains the control character {character!r}"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None
