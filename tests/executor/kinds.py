"""The kinds of objects that Python can define in `__main__`, and what becomes of each in a job.

`kinds.txt` lists them under headings. Each kind is a piece of a notebook that defines objects of it and a
function `check`. A kind that travels gives the same value in a job as here; any other is refused when it is
submitted, by name. The table in `docs/reference/what-travels.md` is made from the same list: `python -m
tests.executor.kinds`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from cook_jupyter.payload.kinds.refused import ADVICE, GENERAL_ADVICE

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "what-travels.md"
BEGIN, END = "<!-- kinds: made by tests/executor/kinds.py -->\n", "<!-- end of kinds -->\n"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of objects.

    Attributes:
        heading: heading of the list that it stands under.
        name: name of the kind, as in the table.
        source: code that defines objects of the kind, and `check`.
        refused: texts that the refusal must contain, with ": " between them; empty if the kind travels.
        note: what is said about it in the table.
        since: first version of Python that has the kind.
    """

    heading: str
    name: str
    source: str
    refused: str = ""
    note: str = ""
    since: tuple[int, ...] = (3, 11)


def _read_kinds() -> list[Kind]:
    kinds = []
    heading = ""
    text = Path(__file__).with_name("kinds.txt").read_text(encoding="utf-8")
    for part in re.split(r"^(?=####? )", text, flags=re.MULTILINE):
        title, _, source = part.partition("\n")
        if title.startswith("#### "):
            heading = title.removeprefix("#### ")
        elif title:
            facts = dict(re.findall(r"^# (note|refused|since): (.*)$", source, flags=re.MULTILINE))
            kinds.append(
                Kind(
                    heading=heading,
                    name=title.removeprefix("### "),
                    source=source,
                    refused=facts.get("refused", ""),
                    note=facts.get("note", ""),
                    since=tuple(map(int, facts.get("since", "3.11").split("."))),
                )
            )
    return kinds


KINDS = _read_kinds()


def table() -> str:
    """Return the table of kinds for the page."""
    lines = []
    for heading in dict.fromkeys(kind.heading for kind in KINDS):
        kinds = [kind for kind in KINDS if kind.heading == heading]
        column = "instead" if kinds[0].refused else "in a job"
        lines += [f"### {heading}", "", f"| Kind | {column} |", "| --- | --- |"]
        lines += [f"| {kind.name} | {_remark(kind)} |" for kind in kinds]
        lines.append("")
    return "\n".join(lines)


def _remark(kind: Kind) -> str:
    since = f" (Python {'.'.join(map(str, kind.since))})" if kind.since > (3, 11) else ""
    if not kind.refused:
        return (kind.note or "whole") + since
    return kind.note or ADVICE.get(kind.refused.rpartition(": ")[2], GENERAL_ADVICE)


def page() -> str:
    """Return the page with the table of kinds in it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
