"""Error class ⇄ HTTP status and body, both ways.

Lives here: which status each class of `cook_jupyter.errors` has, what its body says, and how a client
makes the very class again that the scheduler raised. A response of ours names the class in the
header `X-Cook-Error`; of an original Cook the status has to do.
Not here: the errors themselves (`cook_jupyter.errors`), or when one is raised (`api` and below).

Source: the REST specification, section 1.1: `{"errors": TREE}` for a wrong shape, `{"error": text}` else.
"""

import re
from typing import Any

import msgspec

from cook_jupyter import errors
from cook_jupyter.errors import CookError, InvalidRequest, NotFound
from cook_jupyter.model.printable import printable

ERROR_HEADER = "X-Cook-Error"

_STATUS: dict[type[CookError], int] = {
    errors.InvalidRequest: 400,
    errors.TooLarge: 413,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.QuotaExceeded: 422,
    errors.StoreFull: 507,
    errors.StoreBusy: 503,
    errors.OutOfStep: 503,  # it is starting again: see SchedulerUnreachable, which a bare 503 stands for
    errors.SchedulerUnreachable: 503,
    errors.CookError: 500,
}
_CLASS: dict[int, type[CookError]] = {
    **{status: error for error, status in _STATUS.items() if error is not CookError},
    405: errors.InvalidRequest,
    429: errors.Conflict,
    431: errors.TooLarge,
    500: errors.SchedulerError,
}
_BY_NAME: dict[str, type[CookError]] = {
    error.__name__: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, CookError) and not issubclass(error, errors.JobFailed)
}
_UUID = re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b")


def status_of(error: CookError) -> int:
    """Return the HTTP status of an error: that of its class, else of the nearest class above."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def body_of(error: CookError) -> bytes:
    """Return the JSON body that tells an error: its tree if it has one, else its sentence."""
    if isinstance(error, InvalidRequest) and error.tree is not None:
        return msgspec.json.encode({"errors": error.tree})
    return msgspec.json.encode({"error": str(error)})


def error_of(status: int, body: bytes, name: str | None = None) -> CookError:
    """Make the error that a response of status 400 or above tells.

    Args:
        status: the HTTP status.
        body: the response's body; any bytes.
        name: the value of the header `X-Cook-Error`, if there was one.
    """
    kind = _BY_NAME.get(name or "") or _CLASS.get(status)
    if kind is None:
        kind = errors.SchedulerError if status >= 500 else errors.InvalidRequest
    try:
        told: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        told = body.decode("utf-8", "replace").strip()
    tree = told.get("errors") if isinstance(told, dict) else None
    text = printable(describe(tree) if tree is not None else _text(told, status), lines=True)
    if issubclass(kind, InvalidRequest):
        return kind(text, tree=tree)
    if issubclass(kind, NotFound):
        return kind(text, missing=tuple(_UUID.findall(text)))
    return kind(text)


def describe(tree: object, *, most: int = 5) -> str:
    """Say an error tree as one line: the path to each wrong place and what is wrong there."""
    found: list[str] = []
    _leaves(tree, "", found, most)
    return "; ".join(found) or "the request has a wrong shape"


def _leaves(tree: object, path: str, found: list[str], most: int) -> None:
    if len(found) >= most or tree is None:
        return
    if isinstance(tree, dict):
        for key, below in tree.items():
            _leaves(below, f"{path}.{key}" if path else str(key), found, most)
    elif isinstance(tree, list):
        for place, below in enumerate(tree):
            _leaves(below, f"{path}[{place}]", found, most)
    else:
        found.append(f"{path}: {tree}" if path else str(tree))


def _text(told: object, status: int) -> str:
    while isinstance(told, dict):
        told = next(
            (told[key] for key in ("error", "message") if key in told), msgspec.json.encode(told).decode()
        )
    return str(told) if told not in (None, "") else f"the scheduler answered with status {status}"
