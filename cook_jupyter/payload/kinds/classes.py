"""Classes by value: complete, found by `pickle` inside the job, and created without running hooks again.

Lives here: rebuilding a class from its parts, and identifying classes across processes.
Not here: enumerations (`kinds.enums`), classes of ctypes (`kinds.native`), when a class is sent by value
(`payload.pickling`).

As in cloudpickle, a class is created empty and filled once other objects can refer to it. Its metaclass,
`__init_subclass__` and `__set_name__` have run in the notebook, and their results are sent; they are not
called again.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

from cloudpickle import cloudpickle as internals

from cook_jupyter.payload import main_module
from cook_jupyter.payload.kinds.functions import Reduced, names_in_annotations

ClassState = tuple[dict[str, Any], dict[str, Any]]


def reduce_class(cls: type) -> Reduced:
    """Reduce a class to its parts."""
    attributes = own_attributes(cls)
    namespace: dict[str, Any] = {
        name: attributes.pop(name)
        for name in ("__module__", "__slots__", "__orig_bases__")
        if name in attributes
    }
    namespace["__qualname__"] = cls.__qualname__
    if isinstance(cls.__dict__.get("__dict__"), property):
        namespace["__dict__"] = cls.__dict__["__dict__"]
    for name, value in list(attributes.items()):
        if isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls:
            del attributes[name]  # made from __slots__
    args = (type(cls), cls.__name__, bases_of(cls), namespace, *identity_of(cls))
    return make_class, args, (attributes, named_in_main(cls)), None, None, fill_class


def own_attributes(cls: type) -> dict[str, Any]:
    """Return the attributes of a class that are sent, without those that are inherited.

    cloudpickle considers an attribute inherited if a base has the same object, as is the case for equal
    strings, small numbers and empty tuples. The class in the job would then lack its `__module__` or
    `__slots__`, and follow later changes of its base.
    """
    attributes: dict[str, Any]
    attributes, _ = internals._class_getstate(cls)  # noqa: SLF001 - has no other interface
    for name in sorted(vars(cls).keys() - attributes.keys()):
        value = vars(cls)[name]
        if any(vars(base).get(name, _MISSING) is value for base in cls.__bases__):
            attributes["".join(name)] = value  # not interned, like the other names
    return attributes


_MISSING = object()


def make_class(
    metaclass: type,
    name: str,
    bases: tuple[Any, ...],
    namespace: dict[str, Any],
    class_id: str,
    main_name: str | None,
    is_from_reader: bool,  # for the unpickler
) -> type:
    """Create an empty class, to be filled later.

    Args:
        metaclass: the metaclass.
        name: the name of the class.
        bases: its bases, as written in the class statement.
        namespace: attributes that are needed to create the class.
        class_id: its id in the other process.
        main_name: its qualified name in `__main__`, if it can be found there.
        is_from_reader: whether the sender had received the class from this process.
    """
    resolved = types.resolve_bases(bases)
    namespace = {sys.intern(key): value for key, value in namespace.items()}
    if resolved is not bases:
        namespace.setdefault("__orig_bases__", bases)
    cls = _create(metaclass, name, resolved, namespace)
    track(cls, class_id)
    publish(cls, main_name)
    return cls


def fill_class(cls: type, state: ClassState) -> None:
    """Set the attributes of a class, and the names of `__main__` that it refers to."""
    attributes, names = state
    registered = attributes.pop("_abc_impl", ())
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)
    if "__firstlineno__" in attributes:  # Python 3.13 drops it when another attribute is set
        type.__setattr__(cls, "__firstlineno__", attributes["__firstlineno__"])
    for subclass in registered:
        cls.register(subclass)  # type: ignore[attr-defined]
    if main_module.is_in_job():
        set_missing(main_module.namespace(), names)


def bases_of(cls: type) -> tuple[Any, ...]:
    """Return the bases of a class as written in the class statement, if they resolve to its actual bases."""
    written: tuple[Any, ...] = cls.__dict__.get("__orig_bases__", cls.__bases__)
    if written is not cls.__bases__ and types.resolve_bases(written) != cls.__bases__:
        return cls.__bases__  # NamedTuple, TypedDict
    return written


def named_in_main(cls: type) -> dict[str, Any]:
    """Return the names of `__main__` that a class refers to: its outermost class, and annotations."""
    names = names_in_annotations(inspect.get_annotations(cls).values())
    qualified = main_module.name_of(cls)
    if qualified is not None and "." in qualified:
        top = qualified.partition(".")[0]
        names[top] = main_module.namespace()[top]
    return names


def identity_of(cls: type) -> tuple[str, str | None, bool]:
    """Return the id of a class, its qualified name in `__main__` or None, and whether it was received."""
    received = cls in _received
    return tracker_id(cls), main_module.name_of(cls), received


def publish(obj: Any, main_name: str | None) -> None:
    """Let `pickle` find an object in the job's `__main__`; nested classes are found through the outermost."""
    if main_name is not None and "." not in main_name and main_module.is_in_job():
        main_module.namespace()[main_name] = obj


def set_missing(namespace: dict[str, Any], names: dict[str, Any]) -> None:
    """Set those of the names that are not set yet."""
    for name, value in names.items():
        namespace.setdefault(name, value)


# --- identity of classes ------------------------------------------------------------------------------------


def tracker_id(obj: Any) -> str:
    """Return the id by which other processes know a class."""
    made: str = internals._get_or_create_tracker_id(obj)  # noqa: SLF001 - also a job's own cloudpickle's
    return made


def known_class(class_id: str) -> Any:
    """Return the class of this process with an id, or None."""
    return internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(class_id)  # noqa: SLF001 - see `tracker_id`


def track(cls: type, class_id: str) -> None:
    """Give a new class its id from another process, until the job ends.

    A class of an earlier job that still exists is not used for this one, as its attributes may have changed.
    """
    by_id = internals._DYNAMIC_CLASS_TRACKER_BY_ID  # noqa: SLF001 - see `tracker_id`
    with internals._DYNAMIC_CLASS_TRACKER_LOCK:  # noqa: SLF001
        previous = by_id.get(class_id)
        internals._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls] = class_id  # noqa: SLF001
        if previous is None or main_module.is_in_job():
            by_id[class_id] = cls
        _received.add(cls)

    def restore() -> None:
        if previous is not None:
            by_id[class_id] = previous

    main_module.at_end_of_job(restore)


_received: weakref.WeakSet[type] = weakref.WeakSet()


def is_tracked(cls: type) -> bool:
    """Return whether a class was sent by value or received."""
    return cls in internals._DYNAMIC_CLASS_TRACKER_BY_CLASS  # noqa: SLF001 - see `tracker_id`


# --- creating without hooks ---------------------------------------------------------------------------------


def _create(metaclass: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
    hooked = [base for base in _hooked_bases(bases) if is_tracked(base)]
    try:
        return _create_without(hooked, metaclass, name, bases, dict(namespace))
    except TypeError:
        all_hooked = _hooked_bases(bases)
        if len(all_hooked) == len(hooked):
            raise
        # A hook of an installed class needs the keywords of the class statement, which are not kept anywhere.
        return _create_without(all_hooked, metaclass, name, bases, dict(namespace))


def _create_without(
    hooked: list[type], metaclass: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]
) -> type:
    create = next(parent for parent in metaclass.__mro__ if not is_tracked(parent))
    with contextlib.ExitStack() as stack:
        for base in hooked:
            stack.enter_context(_without_hook(base))
        if create.__name__ == "_TypedDictMeta":  # it takes the bases as written, and returns others
            return type.__new__(metaclass, name, bases, namespace)
        if create is metaclass:
            made: type = metaclass(name, bases, namespace)
            return made
        return create.__new__(metaclass, name, bases, namespace)


def _hooked_bases(bases: tuple[type, ...]) -> list[type]:
    """Return the ancestors of a class that have an `__init_subclass__` written in Python."""
    return [
        cls
        for cls in dict.fromkeys(parent for base in bases for parent in base.__mro__)
        if isinstance(vars(cls).get("__init_subclass__"), classmethod) and cls.__module__ != "typing"
    ]


@contextlib.contextmanager
def _without_hook(base: type) -> Iterator[None]:
    hook = vars(base)["__init_subclass__"]
    type.__setattr__(base, "__init_subclass__", classmethod(lambda _cls, **_keywords: None))
    try:
        yield
    finally:
        type.__setattr__(base, "__init_subclass__", hook)
