"""Golden values that know which of their words were read, so that a driver cannot pass over one.

A case is a tree of JSON. `Words` is one of its objects: it notes each key that is asked for, by name or all
at once. What is left over when the test is done is a word that the driver does not know, and the test fails.
"""

from collections.abc import Iterable, Iterator
from typing import Any


class Words(dict[str, Any]):
    """A JSON object of a golden case that notes which of its keys are read."""

    def __init__(self, value: dict[str, Any], known: Iterable[str] = ()) -> None:
        super().__init__({key: watched(inner) for key, inner in value.items()})
        self._known = frozenset(known)
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._read.add(str(key))
        return super().__contains__(key)

    # Whoever takes all of it has read all of it.

    def __iter__(self) -> Iterator[str]:
        self._read_all()
        return super().__iter__()

    def keys(self) -> Any:
        self._read_all()
        return super().keys()

    def values(self) -> Any:
        self._read_all()
        return super().values()

    def items(self) -> Any:
        self._read_all()
        return super().items()

    def __eq__(self, other: object) -> bool:
        self.read_all_below()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def ignore(self, *keys: str) -> None:
        """Note keys that mean nothing to this driver, on purpose."""
        self._read.update(keys)

    def read_all_below(self) -> None:
        """Note every key of this object and of all in it as read."""
        self._read_all()
        for inner in super().values():
            _read_all_below(inner)

    def forget(self) -> None:
        """Note that nothing was read yet."""
        self._read.clear()
        for inner in super().values():
            for words in _objects(inner):
                words.forget()

    def unread(self, path: str = "") -> list[str]:
        """Return the paths of all keys that nobody read, here and in the objects below."""
        actual = []
        for key, inner in super().items():
            way = f"{path}.{key}" if path else key
            if key not in self._read | self._known:
                actual.append(way)
            else:
                actual += [left for words in _objects(inner) for left in words.unread(way)]
        return actual

    def _read_all(self) -> None:
        self._read.update(super().keys())


def watched(value: Any, known: Iterable[str] = ()) -> Any:
    """Return a JSON value whose objects note what is read of them.

    Args:
        value: the value, as it was read from a file.
        known: keys of the outermost object that count as read.
    """
    if isinstance(value, dict):
        return Words(value, known)
    return [watched(inner) for inner in value] if isinstance(value, list) else value


def _objects(value: Any) -> Iterator[Words]:
    """Yield the objects of a value, as far as they do not lie in one another."""
    if isinstance(value, Words):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _read_all_below(value: Any) -> None:
    for words in _objects(value):
        words.read_all_below()
