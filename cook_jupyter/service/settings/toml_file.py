"""Reading typed settings out of TOML.

Lives here: how tables become the frozen values of `service.settings.tables` and `service.settings.schema`,
and what is said when one does not. Not here: which settings there are.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from cook_jupyter.errors import InvalidRequest


def read_values(path: Path, kind: type) -> dict[str, Any]:
    """Return what a TOML file says about the fields of `kind`, each as the type of its field.

    Raises:
        InvalidRequest: it is not TOML, names what does not exist, or a value is of the wrong type.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequest(f"the settings file {path} cannot be read: {error}") from error
    return typed_values(found, kind, f"the settings file {path}")


def typed_values(found: Mapping[str, Any], kind: type, source: str) -> dict[str, Any]:
    """Return tables as the types of the fields of `kind`; raises as `read_values` does."""
    import msgspec

    _require_known(found, kind, source, "")
    hints = get_type_hints(kind)
    typed = {}
    for name, value in found.items():
        try:
            typed[name] = msgspec.convert(value, hints[name])
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"{source}: {name}: {error}") from error
    return typed


def _require_known(found: object, kind: Any, source: str, where: str) -> None:
    """Refuse names that are no field, at every depth."""
    if isinstance(found, list):
        for item in found:
            _require_known(item, kind, source, where)
    if not isinstance(found, dict):
        return
    if not is_dataclass(kind):
        for inner in get_args(kind):
            if is_dataclass(inner):
                _require_known(found, inner, source, where)
        return
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(found) - known)
    if unknown:
        place = f" in [{where}]" if where else ""
        raise InvalidRequest(
            f"{source} names unknown settings{place}: {', '.join(unknown)};"
            f" known are: {', '.join(sorted(known))}"
        )
    hints = get_type_hints(kind)
    for name, value in found.items():
        _require_inner(value, hints[name], source, f"{where}.{name}" if where else name)


def _require_inner(value: object, kind: Any, source: str, where: str) -> None:
    kinds = [kind, *get_args(kind)]
    inner = next((one for one in kinds if is_dataclass(one)), None)
    if inner is not None and get_origin(kind) is Mapping and isinstance(value, dict):
        for name, item in value.items():
            _require_known(item, inner, source, f"{where}.{name}")
    elif inner is not None:
        _require_known(value, inner, source, where)
