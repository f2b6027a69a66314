"""The SQL of the stores, as files: one folder per database.

Lives here: numbered migrations (`0001_first.sql` ...; the schema is their sum, and none is ever
edited once released) and `queries.sql`, where each statement stands under its name.
Not here: when a statement runs (`store.sqlite_book`, `store.sqlite_rows`).
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

_NAMED = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def migrations(database: str) -> Sequence[str]:
    """Return the scripts that bring an empty database to the newest schema, in their order."""
    scripts = sorted(
        (entry.name, entry.read_text(encoding="utf-8"))
        for entry in (files(__name__) / database).iterdir()
        if re.match(r"\d{4}_.*\.sql$", entry.name)
    )
    return [text for _, text in scripts]


def queries(database: str) -> Mapping[str, str]:
    """Return the statements of a database by their names."""
    text = (files(__name__) / database / "queries.sql").read_text(encoding="utf-8")
    _, *pieces = _NAMED.split(text)
    return dict(zip(pieces[::2], (piece.strip() for piece in pieces[1::2]), strict=True))
