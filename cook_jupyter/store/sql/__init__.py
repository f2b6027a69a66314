"""The SQL statements of the stores, one folder per database.

Lives here: numbered migrations (`0001_first.sql` ...), which together define the schema and are never edited
once released, and `queries.sql` with all named statements.
Not here: the execution of statements (`store.sqlite_writer`, `store.sqlite_reader`).
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

_NAMED = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def migrations(database: str) -> Sequence[str]:
    """Return the migrations of a database, in their order."""
    scripts = sorted(
        (entry.name, entry.read_text(encoding="utf-8"))
        for entry in (files(__name__) / database).iterdir()
        if re.match(r"\d{4}_.*\.sql$", entry.name)
    )
    return [text for _, text in scripts]


def queries(database: str) -> Mapping[str, str]:
    """Return the named statements of a database."""
    text = (files(__name__) / database / "queries.sql").read_text(encoding="utf-8")
    _, *pieces = _NAMED.split(text)
    return dict(zip(pieces[::2], (piece.strip() for piece in pieces[1::2]), strict=True))
