"""User names in requests.

Lives here: the user name of this process, and which names can be sent in the header `Authorization: Basic`.
Not here: which names may own jobs at this scheduler, who may act as another user (`api.auth`).

Source: RFC 7617, section 2: in Basic a user-id ends at the first colon and contains no control characters.
"""

import getpass
import os
import pwd
import unicodedata

from cook_jupyter.errors import InvalidRequest, WrongType

MAX_NAME_BYTES = 255


def process_user() -> str:
    """Return the user name of this process: from the environment, the system, or made from the uid.

    In a container the uid often has no name; the user is then called `uid1000`, for instance.
    """
    try:
        return require_user_name(getpass.getuser())
    except (KeyError, OSError, InvalidRequest):  # there is no name, or it cannot be sent in a request
        pass
    try:
        return require_user_name(pwd.getpwuid(os.getuid()).pw_name)
    except (KeyError, InvalidRequest):
        return f"uid{os.getuid()}"


def require_user_name(name: str) -> str:
    """Return `name` if it can be sent in a request.

    Raises:
        InvalidRequest: it cannot; the message says why and what to do.
        WrongType: it is not a string.
    """
    if not isinstance(name, str):
        raise WrongType(f"a user name must be a string, not {name!r}")
    if fault := _fault_of(name):
        raise InvalidRequest(
            f"the user name {name[:80]!r} {fault}, and cannot be sent in a header (HTTP Basic)."
            " Use another name, for instance of letters, digits, '_' and '-'"
        )
    return name


def _fault_of(name: str) -> str | None:
    """Return why a name cannot be sent in the header, as a predicate; None if it can."""
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
