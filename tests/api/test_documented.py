"""The reference names every route, and no other."""

import re
from pathlib import Path

from cook_jupyter.api.routes import ROUTES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "rest-api.md"
VERBS = ("get", "post", "put", "delete", "head")


def documented() -> set[tuple[str, str]]:
    """Each method and path that the reference has a row for."""
    rows = re.findall(r"^\| `([A-Z, ]+)` \| `(/[^`?]*)", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    return {(method, path) for methods, path in rows for method in methods.split(", ")}


def served() -> set[tuple[str, str]]:
    """Each method and path that a handler answers."""
    return {
        (verb.upper(), path)
        for path, handler in ROUTES
        for verb in VERBS
        if any(verb in vars(kind) for kind in handler.__mro__[: handler.__mro__.index(_root(handler))])
    }


def _root(handler: type) -> type:
    return next(kind for kind in handler.__mro__ if kind.__name__ == "CookHandler")


def test_the_reference_names_every_route_and_no_other() -> None:
    assert documented() == served()
