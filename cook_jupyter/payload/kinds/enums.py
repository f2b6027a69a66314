"""Enumerations by value: members with all their attributes, aliases, and flags of several bits.

Lives here: reducing an enumeration and its members, and rebuilding it.
Not here: other classes (`kinds.classes`).

Members are created as `pickle` creates instances: neither `__new__` nor `__init__` of the enumeration runs
again. They are created with the class, before anything that may refer to them.
"""

from __future__ import annotations

import copyreg
import enum
import pickle
from typing import Any

from cook_jupyter.payload.kinds.classes import (
    ClassState,
    bases_of,
    fill_class,
    identity_of,
    named_in_main,
    own_attributes,
    publish,
    track,
)
from cook_jupyter.payload.kinds.functions import Reduced

# Attributes that the metaclass derives from the members: simple values, needed as soon as the class exists.
_DERIVED = (
    "_member_type_",
    "_use_args_",
    "_value_repr_",
    "_boundary_",
    "_flag_mask_",
    "_singles_mask_",
    "_all_bits_",
    "_inverted_",
    "__new__",
)
_MADE = frozenset(
    ("_member_names_", "_member_map_", "_value2member_map_", "_unhashable_values_", "_hashable_values_")
)


def reduce_enum(cls: Any) -> Reduced:
    """Reduce an enumeration to its parts."""
    attributes = own_attributes(cls)
    namespace: dict[str, Any] = {
        name: attributes.pop(name) for name in ("__module__", "__orig_bases__") if name in attributes
    }
    namespace["__qualname__"] = cls.__qualname__
    derived = {name: attributes.pop(name) for name in _DERIVED if name in attributes}
    for name in _MADE & attributes.keys():
        del attributes[name]
    members: list[tuple[str, str | None, Any, Any]] = []
    more: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for name, member in cls._member_map_.items():
        attributes.pop(name, None)
        if name != member.name:
            members.append((name, member.name, None, None))  # an alias
            continue
        args, state = _reduce_parts(member)
        value = state[0].pop("_value_")
        for attribute in ("_name_", "__objclass__"):
            state[0].pop(attribute, None)
        members.append((name, None, args, value))
        more[name] = state
    args = (
        (type(cls), cls.__name__, bases_of(cls), namespace),
        derived,
        members,
        list(cls._member_names_),
        *identity_of(cls),
    )
    return make_enum, args, (attributes, named_in_main(cls), more), None, None, fill_enum


def make_enum(
    definition: tuple[type, str, tuple[Any, ...], dict[str, Any]],
    derived: dict[str, Any],
    members: list[tuple[str, str | None, Any, Any]],
    listed: list[str],
    class_id: str,
    main_name: str | None,
    is_from_reader: bool,  # for the unpickler
) -> type[enum.Enum]:
    """Create an enumeration with its members.

    Args:
        definition: metaclass, name, bases and initial attributes.
        derived: attributes that the metaclass derived originally.
        members: name of each member, the name it is an alias of, the arguments that create it, and its value.
        listed: names of the members that an iteration yields.
        class_id: id of the class in the other process.
        main_name: qualified name of the class in `__main__`, if it can be found there.
        is_from_reader: whether the sender had received the class from this process.
    """
    metaclass, name, bases, namespace = definition
    cls: Any = type.__new__(metaclass, name, bases, dict(namespace))
    for key, value in derived.items():
        type.__setattr__(cls, key, value)
    by_name: dict[str, Any] = {}
    by_value: dict[Any, Any] = {}
    hashable: list[Any] = []
    unhashable: list[Any] = []
    for key, value in (
        ("_member_names_", listed),
        ("_member_map_", by_name),
        ("_value2member_map_", by_value),
        ("_hashable_values_", hashable),
        ("_unhashable_values_", unhashable),
    ):
        if hasattr(enum.Enum, key) or key in ("_member_names_", "_member_map_", "_value2member_map_"):
            type.__setattr__(cls, key, value)
    for member_name, canonical, args, value in members:
        if canonical is not None:
            member = by_name[canonical]
        else:
            member = _make_member(cls, args)
            member._name_, member._value_, member.__objclass__ = member_name, value, cls
            try:
                by_value.setdefault(value, member)
                hashable.append(value)
            except TypeError:
                unhashable.append(value)
        _bind(cls, member_name, member)
        by_name[member_name] = member
    track(cls, class_id)
    publish(cls, main_name)
    return cls  # type: ignore[no-any-return]


def fill_enum(cls: type[enum.Enum], state: tuple[*ClassState, dict[str, Any]]) -> None:
    """Set the attributes of an enumeration and those of its members."""
    attributes, names, more = state
    fill_class(cls, (attributes, names))
    for name, (by_dict, by_slot) in more.items():
        member = cls._member_map_[name]
        member.__dict__.update(by_dict)
        for slot, value in by_slot.items():
            object.__setattr__(member, slot, value)


def reduce_member(member: Any) -> Reduced:
    """Refer to a member by its name, and to a combination of flags by its value."""
    cls = type(member)
    if member.name is not None and cls._member_map_.get(member.name) is member:
        return member_of, (cls, member.name)
    return cls, (member._value_,)


def member_of(cls: type[enum.Enum], name: str) -> enum.Enum:
    """Return the member of an enumeration with a name."""
    return cls._member_map_[name]


def _reduce_parts(member: enum.Enum) -> tuple[tuple[Any, ...], tuple[dict[str, Any], dict[str, Any]]]:
    """Return the arguments that create a member, and its attributes in its dictionary and in slots."""
    reduction: Any = object.__reduce_ex__(member, 4)
    make, args, *rest = reduction
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]
        args = args[1:]
    elif make is not type(member):
        raise pickle.PicklingError(f"the member {member!r} is created in an unknown way")
    state = rest[0] if rest else None
    by_dict, by_slot = state if isinstance(state, tuple) else (state, None)
    if not isinstance(by_dict, dict):
        by_dict = member.__dict__
    return args, (dict(by_dict), dict(by_slot or {}))


def _make_member(cls: Any, args: tuple[Any, ...]) -> Any:
    kind = cls._member_type_
    return object.__new__(cls) if kind is object else kind.__new__(cls, *args)


def _bind(cls: Any, name: str, member: Any) -> None:
    """Make a member an attribute of its class, even if a base has a property of that name."""
    if any(isinstance(vars(base).get(name), enum.property) for base in cls.__mro__[1:]):
        redirect: Any = enum.property()
        redirect.member = member
        redirect.__set_name__(cls, name)
        type.__setattr__(cls, name, redirect)
    else:
        type.__setattr__(cls, name, member)
