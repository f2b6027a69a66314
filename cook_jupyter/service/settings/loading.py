"""The settings in force: defaults, the settings file, and the command line, in this order.

Lives here: `load_settings`; `LoadedSettings`, which knows where each value comes from; and the names that
settings had before they were put into tables (`OLD_NAMES`).
Not here: parsing TOML (`service.settings.toml_file`), checks of values (`service.settings.checks`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.service.settings.checks import require_consistent
from cook_jupyter.service.settings.schema import Settings
from cook_jupyter.service.settings.tables import LocalClusterSettings

_FIELDS_OF: Final = {
    "server": (
        "host port socket allowed_hosts cors_origins impersonators admins body_bytes jobs_per_submission"
        " inline_result_bytes"
    ),
    "store": "synchronous",
    "clusters": "cpus mem_mb agent_idle_exit_s kill_grace_s",
    "jobs": (
        "max_cpus max_mem_mb max_ports retry_limit command_length_limit max_runtime_ms default_runtime_ms"
        " mea_culpa_limit mea_culpa_limits"
    ),
    "matching": "order max_considered scaleback good_enough max_over_quota_jobs rank_interval_ms",
}
OLD_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {name: f"{table}.{name}" for table, names in _FIELDS_OF.items() for name in names.split()}
)
"""Old name at the top level of a settings file, which is still accepted -> present name."""


class Origin(NamedTuple):
    """The value of a setting, and where it comes from.

    Attributes:
        name: name of the setting, such as `rebalancer.min_dru_diff` or `clusters[0].cpus`.
        value: the value in force.
        source: `default`, the line of a file, an environment variable, or an option of the command line.
    """

    name: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """Settings, and the sources of the values that are not defaults.

    Attributes:
        settings: the settings in force.
        sources: name of a setting, or of a part of its value -> source of the value.
    """

    settings: Settings
    sources: Mapping[str, str]

    def origins(self) -> Iterator[Origin]:
        """Yield each setting with its value and its source."""
        for name, value in _flatten(self.settings, ""):
            yield Origin(name, value, self._source_of(name))

    def _source_of(self, name: str) -> str:
        if name in self.sources:
            return self.sources[name]
        # A value that is set in parts, such as a table of names that the operator chooses.
        parts = (source for part, source in self.sources.items() if part.startswith(f"{name}."))
        return next(parts, "default")


def load_settings(path: Path | None, **options: Any) -> Settings:
    """Read the settings of a file, and override them with options of the command line.

    Args:
        path: the settings file; None for the defaults.
        options: values by old name at the top level (`OLD_NAMES`); None leaves a setting as it is.

    Raises:
        InvalidRequest: the file is not TOML, has an unknown name, or a value is invalid.
    """
    return load_with_sources(path, **options).settings


def load_with_sources(path: Path | None, **options: Any) -> LoadedSettings:
    """Do the same as `load_settings`, and record where each value comes from."""
    settings = Settings()
    sources: dict[str, str] = {}
    if path is not None:
        settings, sources = _read(path)
    for name, value in options.items():
        if value is not None:
            table, _, field = OLD_NAMES[name].partition(".")
            settings = _replace(settings, table, field, value)
            sources[_first_entry(OLD_NAMES[name])] = f"command line: --{name.replace('_', '-')}"
    require_consistent(settings)
    return LoadedSettings(settings=settings, sources=sources)


def _read(path: Path) -> tuple[Settings, dict[str, str]]:
    """Return the settings of a file, and the line of each that it sets."""
    from cook_jupyter.service.settings.toml_file import (  # most schedulers have no file
        TomlFile,
        convert_tables,
    )

    file = TomlFile.read(path)
    values = _with_present_names(file.values, path)
    settings = Settings(**convert_tables(file, Settings, values, OLD_NAMES))
    sources = {}
    for name in _names_of_leaves(values, ""):
        line = file.line_of(name)
        old_name = next((old for old, new in OLD_NAMES.items() if _first_entry(new) == name), None)
        suffix = ""
        if old_name in file.values:
            line, suffix = file.line_of(old_name), f", as {old_name}"
        sources[name] = f"{path}{'' if line is None else f':{line}'}{suffix}"
    return settings, sources


def _with_present_names(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the tables of a file with each old name replaced by the present one.

    Raises:
        InvalidRequest: the file sets something under both names.
    """
    present = {name: value for name, value in values.items() if name not in OLD_NAMES}
    for old_name in OLD_NAMES.keys() & values.keys():
        table, _, field = OLD_NAMES[old_name].partition(".")
        is_list = table == "clusters"
        entries = present.get(table, [{}]) if is_list else [present.get(table, {})]
        if not isinstance(entries, list) or not entries or not isinstance(entries[0], dict):
            continue  # its conversion explains what is wrong with it
        if field in entries[0]:
            raise InvalidRequest(
                f"the settings file {path} sets {OLD_NAMES[old_name]} and also its old name {old_name}:"
                " remove one of them"
            )
        entries = [{**entries[0], field: values[old_name]}, *entries[1:]]
        present[table] = entries if is_list else entries[0]
    return present


def _replace(settings: Settings, table: str, field: str, value: Any) -> Settings:
    if table == "clusters":
        first, *others = settings.clusters
        if not isinstance(first, LocalClusterSettings):
            raise InvalidRequest(
                f"--{field.replace('_', '-')} is for a local cluster, and the first cluster is of type"
                f" {first.type!r}: use the settings file"
            )
        return replace(settings, clusters=(replace(first, **{field: value}), *others))
    return replace(settings, **{table: replace(getattr(settings, table), **{field: value})})


def _first_entry(name: str) -> str:
    """Return a name in which the first cluster stands for all of them."""
    return name.replace("clusters.", "clusters[0].", 1) if name.startswith("clusters.") else name


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each setting; a mapping is one value."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _flatten(getattr(value, field.name), f"{name}.{field.name}" if name else field.name)
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        for position, item in enumerate(value):
            yield from _flatten(item, f"{name}[{position}]")
    else:
        yield name, value


def _names_of_leaves(value: Any, name: str) -> Iterator[str]:
    """Yield the name of each value that a file sets, at every depth of its tables."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _names_of_leaves(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for position, item in enumerate(value):
            yield from _names_of_leaves(item, f"{name}[{position}]")
    else:
        yield name


def format_value(value: Any) -> str:
    """Return a value as TOML would have it, or `none`."""
    if value is None:
        return "none"
    return json.dumps(plain_value(value), ensure_ascii=False)


def plain_value(value: Any) -> Any:
    """Return a value in terms of JSON."""
    if is_dataclass(value):
        return {field.name: plain_value(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [plain_value(item) for item in value]
    return getattr(value, "value", value)
