"""The locks of requirements/ agree with pyproject.toml, and any index can serve them."""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = ("dev", "lab", "demo", "bench")
PYTHONS = ("3.11.0", "3.11.9", "3.12.0", "3.13.0")
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ]+)(?: ; (?P<marker>.+))? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


def direct_requirements(extra: str | None) -> Iterator[Requirement]:
    """Yield the requirements of an extra on other packages, those of the extras that it includes among them.

    Args:
        extra: the name of the extra; None for the base installation.
    """
    project = PROJECT["project"]
    texts = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    for requirement in map(Requirement, texts):
        if canonicalize_name(requirement.name) != "cook-jupyter":
            yield requirement
            continue
        for included in requirement.extras:
            yield from direct_requirements(included)


def pins(lock: Path, python: str) -> dict[str, list[Version]]:
    """Return the versions that a lock gives to each package on Linux with one Python."""
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
    }
    versions = defaultdict(list)
    for line in lock.read_text(encoding="utf-8").splitlines():
        pin = PIN.fullmatch(line)
        if pin and (pin["marker"] is None or Marker(pin["marker"]).evaluate(environment)):
            versions[pin["name"]].append(Version(pin["version"]))
    return versions


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_has_an_allowed_version_of_each_direct_dependency(extra: str, python: str) -> None:
    locked = pins(ROOT / "requirements" / f"{extra}.txt", python)
    build = map(Requirement, PROJECT["build-system"]["requires"])

    refused = [
        f"{requirement}: {found or 'not locked'}"
        for requirement in (*direct_requirements(None), *direct_requirements(extra), *build)
        for found in [locked.get(canonicalize_name(requirement.name), [])]
        if not found or not all(version in requirement.specifier for version in found)
    ]

    assert refused == [], "make lock KEEP=1"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_has_one_version_of_a_package_for_each_python(lock: Path, python: str) -> None:
    assert {name: versions for name, versions in pins(lock, python).items() if len(versions) > 1} == {}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["lab", "demo"])
def test_what_a_smaller_lock_holds_has_the_same_version_for_developers(extra: str, python: str) -> None:
    for_developers = pins(ROOT / "requirements" / "dev.txt", python)

    assert pins(ROOT / "requirements" / f"{extra}.txt", python).items() <= for_developers.items()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_holds_versions_and_hashes_and_no_address(lock: Path) -> None:
    lines = lock.read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if not PIN.fullmatch(line) and not HASH.fullmatch(line)] == []
