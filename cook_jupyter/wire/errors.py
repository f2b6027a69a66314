"""Conversion of errors to HTTP status and body, and back.

Lives here: the status of each class in `cook_jupyter.errors`, the body, and how a client creates an error of
the class that the scheduler raised. Responses of cook_jupyter name the class in the header `X-Cook-Error`;
for an original Cook the status determines it.
Not here: the errors themselves (`cook_jupyter.errors`), where they are raised (`api` and below).

Source: the REST specification, section 1.1: `{"errors": TREE}` for an invalid body, otherwise `{"error":
text}`.
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
    errors.OutOfStep: 503,  # the scheduler is restarting; a 503 without a class means SchedulerUnreachable
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
    """Return the HTTP status of an error: that of its class, or of its nearest base class with one."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def encode_error(error: CookError) -> bytes:
    """Return the JSON body of an error: its tree if it has one, otherwise its text."""
    if isinstance(error, InvalidRequest) and error.tree is not None:
        return msgspec.json.encode({"errors": error.tree})
    return msgspec.json.encode({"error": str(error)})


def error_of(status: int, body: bytes, name: str | None = None) -> CookError:
    """Create the error in a response with a status from 400.

    Args:
        status: the HTTP status.
        body: body of the response; any bytes.
        name: value of the header `X-Cook-Error`; None if there is none.
    """
    kind = _BY_NAME.get(name or "") or _CLASS.get(status)
    if kind is None:
        kind = errors.SchedulerError if status >= 500 else errors.InvalidRequest
    try:
        content: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        content = body.decode("utf-8", "replace").strip()
    tree = content.get("errors") if isinstance(content, dict) else None
    text = printable(format_error_tree(tree) if tree is not None else _text(content, status), lines=True)
    if issubclass(kind, InvalidRequest):
        return kind(text, tree=tree)
    if issubclass(kind, NotFound):
        return kind(text, missing=tuple(_UUID.findall(text)))
    return kind(text)


def format_error_tree(tree: object, *, max_items: int = 5) -> str:
    """Format an error tree as one line: the path to each invalid element, and what is wrong with it."""
    items: list[str] = []
    _collect_leaves(tree, "", items, max_items)
    return "; ".join(items) or "the request has an invalid form"


def _collect_leaves(tree: object, path: str, items: list[str], max_items: int) -> None:
    if len(items) >= max_items or tree is None:
        return
    if isinstance(tree, dict):
        for key, child in tree.items():
            _collect_leaves(child, f"{path}.{key}" if path else str(key), items, max_items)
    elif isinstance(tree, list):
        for index, child in enumerate(tree):
            _collect_leaves(child, f"{path}[{index}]", items, max_items)
    else:
        items.append(f"{path}: {tree}" if path else str(tree))


def _text(content: object, status: int) -> str:
    while isinstance(content, dict):
        content = next(
            (content[key] for key in ("error", "message") if key in content),
            msgspec.json.encode(content).decode(),
        )
    return str(content) if content not in (None, "") else f"the scheduler answered with status {status}"
