"""Classes of ctypes by value: structures, unions, arrays, pointers and function prototypes.

Lives here: reducing such a class, and rebuilding it.
Not here: instances, which ctypes pickles itself, or refuses if they contain addresses.
"""

from __future__ import annotations

import ctypes
from typing import Any

from cook_jupyter.payload import main_module
from cook_jupyter.payload.kinds.classes import (
    identity_of,
    named_in_main,
    own_attributes,
    publish,
    set_missing,
    track,
)
from cook_jupyter.payload.kinds.functions import Reduced

ARRAYS = type(ctypes.c_int * 1)
POINTERS = type(ctypes.POINTER(ctypes.c_int))
PROTOTYPES = type(ctypes.CFUNCTYPE(None))
METACLASSES: dict[type, type] = {  # with a class of each, because no module has them
    type(cls): cls
    for cls in (
        ctypes.Structure,
        ctypes.Union,
        ctypes.Array,
        ctypes._Pointer,  # noqa: SLF001 - has no other name
        ctypes._SimpleCData,  # noqa: SLF001
        ctypes.CFUNCTYPE(None).__mro__[1],
    )
}


class _OneField(ctypes.Structure):
    _fields_ = (("field", ctypes.c_int),)


_FIELD = type(_OneField.field)
_USES_ERRNO, _USES_LAST_ERROR = 0x8, 0x10
_LAYOUT = (  # must exist when fields or items are laid out
    "_pack_",
    "_align_",
    "_layout_",
    "_type_",
    "_length_",
)


def reduce_native_class(cls: Any) -> Reduced:
    """Reduce a class of ctypes to its parts."""
    metaclass = type(cls)
    if issubclass(metaclass, PROTOTYPES) and cls.__module__ == "ctypes":
        flags = cls._flags_
        return make_prototype, (
            cls._restype_,
            cls._argtypes_,
            bool(flags & _USES_ERRNO),
            bool(flags & _USES_LAST_ERROR),
        )
    if issubclass(metaclass, ARRAYS) and cls is cls._type_ * cls._length_:
        return make_array, (cls._type_, cls._length_)
    if issubclass(metaclass, POINTERS) and cls.__name__.startswith("LP_"):
        return ctypes.POINTER, (cls._type_,)
    for order in ("__ctype_be__", "__ctype_le__"):
        common = getattr(ctypes, cls.__qualname__, None)
        if common is not cls and getattr(common, order, None) is cls:
            return getattr, (common, order)
    attributes = own_attributes(cls)
    attributes = {name: value for name, value in attributes.items() if type(value) is not _FIELD}
    namespace = {name: attributes.pop(name) for name in ("__module__", *_LAYOUT) if name in attributes}
    args = (metaclass, cls.__name__, cls.__bases__, namespace, *identity_of(cls))
    return make_native_class, args, (attributes, named_in_main(cls)), None, None, fill_native_class


def make_native_class(
    metaclass: Any,
    name: str,
    bases: tuple[type, ...],
    namespace: dict[str, Any],
    class_id: str,
    main_name: str | None,
    is_from_reader: bool,  # for the unpickler
) -> type:
    """Create a class of ctypes without its fields.

    Args:
        metaclass: the metaclass.
        name: the name of the class.
        bases: its bases.
        namespace: attributes that are needed to create the class.
        class_id: its id in the other process.
        main_name: its qualified name in `__main__`, if it can be found there.
        is_from_reader: whether the sender had received the class from this process.
    """
    cls: type = metaclass(name, bases, dict(namespace))
    track(cls, class_id)
    publish(cls, main_name)
    return cls


def fill_native_class(cls: type, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Set the attributes of a class of ctypes, with its fields last because they may refer to the class."""
    attributes, names = state
    fields = attributes.pop("_fields_", None)
    for name, value in attributes.items():
        setattr(cls, name, value)
    if fields is not None:
        cls._fields_ = fields  # type: ignore[attr-defined]
    if main_module.is_in_job():
        set_missing(main_module.namespace(), names)


def make_array(kind: Any, length: int) -> Any:
    """Return the class of arrays of an element type and length."""
    return kind * length


def make_prototype(result: Any, arguments: tuple[Any, ...], errno: bool, last_error: bool) -> Any:
    """Return the prototype of functions that ctypes calls.

    Args:
        result: return type.
        arguments: types of the arguments.
        errno: whether calls swap the C library's errno.
        last_error: whether calls swap the last error of Windows.
    """
    return ctypes.CFUNCTYPE(result, *arguments, use_errno=errno, use_last_error=last_error)
