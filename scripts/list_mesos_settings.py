"""Write docs/reference/mesos.md: the settings of a cluster of Mesos, from their types.

python scripts/list_mesos_settings.py           writes the page
python scripts/list_mesos_settings.py --check   tells whether the page agrees (tests/service does the same)
"""

import dataclasses
import inspect
import re
import sys
import typing
from pathlib import Path

from cook_jupyter.clusters.mesos import partitions
from cook_jupyter.clusters.mesos.options import MesosOptions
from cook_jupyter.service.settings.tables import MesosClusterSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "mesos.md"


def main(arguments: list[str]) -> int:
    """Return the exit code: 1 if the page was to be checked and differs."""
    if "--check" in arguments:
        agrees = PAGE.exists() and PAGE.read_text() == page()
        print("mesos.md agrees" if agrees else "mesos.md differs: run python scripts/list_mesos_settings.py")
        return 0 if agrees else 1
    PAGE.write_text(page())
    return 0


def page() -> str:
    """Return the whole page."""
    rows = "\n".join(
        f"| `{field.name}` | {_type_text(field)} | {_meaning(field)} | {_default_text(field)} |"
        for field in sorted(dataclasses.fields(MesosClusterSettings), key=lambda field: field.name != "type")
    )
    return f"""# Settings of a Mesos cluster

Written by `scripts/list_mesos_settings.py` from `cook_jupyter/clusters/mesos/options.py`: change the code,
then run it again. How to use them: [Run notebooks on Mesos](../how-to/mesos.md).

Each `[[clusters]]` entry of the [settings file](configuration.md#the-schedulers-settings-file) with
`type = "mesos"` is a cluster. A scheduler can have several, with different names. Names that end in `_s` are
times in seconds.

| Setting | Type | Meaning | Default |
| --- | --- | --- | --- |
{rows}

A job can have a partition policy of its own: the label `{partitions.LABEL}`, with one of the values of
`partition_policy`.

`cook-jupyter config --config FILE --show-origin` shows all settings, and where each value comes from.
"""


def _meaning(field: "dataclasses.Field[object]") -> str:
    for described in (MesosClusterSettings, MesosOptions):
        meanings = _attributes(inspect.getdoc(described) or "")
        if field.name in meanings:
            return meanings[field.name]
    raise LookupError(f"the setting {field.name} is not described in its docstring")


def _attributes(docstring: str) -> dict[str, str]:
    """Return the texts of the section Attributes of a docstring, each in one line."""
    section = docstring.partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()).removesuffix(".") for name, text in entries}


def _type_text(field: "dataclasses.Field[object]") -> str:
    kind = typing.get_type_hints(MesosClusterSettings)[field.name]
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "list of texts"
    names = {str: "text", float: "number", int: "integer", bool: "`true` or `false`"}
    return names[kind]


def _default_text(field: "dataclasses.Field[object]") -> str:
    value = field.default
    if field.name == "master":
        return "required"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return "`[]`"
    assert isinstance(value, int | float)
    return f"{value:,.10g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
