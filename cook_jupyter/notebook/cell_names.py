"""Which names a cell reads before it binds them itself: definite assignment, on bytecode.

Lives here: the analysis of a cell's compiled code.
Not here: what is done with the names (`notebook.cell_analysis`, `notebook.magics`).

The compiler knows every construct that binds a name (`with`, `for`, `import`, `except ... as`, patterns,
`:=`, `type`, ...), and its code shows when each binding happens, even if an exception is suppressed in
between. So the analysis reads code, not syntax: it is a forward data-flow analysis whose state is the set of
names that are bound on every path, as in Java (Java Language Specification, chapter 16).

A function may be called at any time after its definition: its reads count where it is defined.
"""

import dis
import inspect
from collections.abc import Iterator
from types import CodeType

_READS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_NAME", "DELETE_GLOBAL"})
_READS_OF_GLOBALS = frozenset({"LOAD_GLOBAL", "DELETE_GLOBAL"})  # which see no names of a class
_BINDS = frozenset({"STORE_NAME", "STORE_GLOBAL"})
_DELETES = frozenset({"DELETE_NAME", "DELETE_GLOBAL"})
_OF_NAMES = frozenset({"STORE_NAME", "DELETE_NAME"})  # of a class, where they are in a class
_CLASS = "class "  # before the name of a class attribute among the names that are bound: no name has a blank
_NO_FALL_THROUGH = frozenset(
    {
        "JUMP_FORWARD",
        "JUMP_BACKWARD",
        "JUMP_BACKWARD_NO_INTERRUPT",
        "RETURN_VALUE",
        "RETURN_CONST",
        "RAISE_VARARGS",
        "RERAISE",
    }
)
_JUMPS = frozenset((*dis.hasjrel, *dis.hasjabs))

State = frozenset[str]


def names_read(code: CodeType, bound: State = frozenset(), *, in_class: bool = False) -> set[str]:
    """Return the names that code, or a function in it, may look up before the code has bound them.

    Args:
        code: code of a cell, a class or a function.
        bound: names that are bound at its start.
        in_class: whether it is the code of a class.
    """
    instructions = list(dis.get_instructions(code))
    positions = {instruction.offset: position for position, instruction in enumerate(instructions)}
    handlers = _handlers(code, positions, len(instructions))
    states: dict[int, State] = {0: bound}
    pending = [0]
    while pending:
        position = pending.pop()
        step = (instructions, positions, handlers, position, states[position])
        for successor, state in _successors(*step, in_class=in_class):
            old_state = states.get(successor)
            joined = state if old_state is None else old_state & state
            if joined != old_state:
                states[successor] = joined
                pending.append(successor)
    names: set[str] = set()
    for position, state in states.items():
        instruction = instructions[position]
        if instruction.opname in _READS:
            if not _is_bound(instruction, state):
                names.add(instruction.argval)
        elif isinstance(instruction.argval, CodeType):
            inner = instruction.argval
            # Code inside a class does not see the names of the class.
            visible = frozenset(name for name in state if not name.startswith(_CLASS))
            names |= names_read(inner, visible, in_class=_is_class(inner))
    return names


def _is_bound(instruction: dis.Instruction, state: State) -> bool:
    """Return whether the name that an instruction looks up is bound, in its class or as a global.

    From Python 3.12 on a comprehension is part of the code around it. In a class it still sees no names of
    the class: it looks up globals alone.
    """
    name = instruction.argval
    return name in state or (_CLASS + name in state and instruction.opname not in _READS_OF_GLOBALS)


def names_bound(code: CodeType) -> set[str]:
    """Return the names of the notebook that code, or a function in it, may bind."""
    names = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname in _BINDS}
    for inner in _code_inside(code):
        names |= _globals_bound(inner)
    return names


def _globals_bound(code: CodeType) -> set[str]:
    names = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_GLOBAL"
    }
    for inner in _code_inside(code):
        names |= _globals_bound(inner)
    return names


def _code_inside(code: CodeType) -> Iterator[CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def _is_class(code: CodeType) -> bool:
    """Return whether nested code is that of a class, which looks its names up dynamically."""
    return not code.co_flags & inspect.CO_OPTIMIZED


def _handlers(code: CodeType, positions: dict[int, int], count: int) -> list[int | None]:
    """Return for each instruction the position of its exception handler, or None."""
    handlers: list[int | None] = [None] * count
    entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
    offsets = {position: offset for offset, position in positions.items()}
    for entry in entries:
        for position in range(count):
            if entry.start <= offsets[position] < entry.end:
                handlers[position] = positions[entry.target]
    return handlers


def _successors(
    instructions: list[dis.Instruction],
    positions: dict[int, int],
    handlers: list[int | None],
    position: int,
    state: State,
    *,
    in_class: bool,
) -> Iterator[tuple[int, State]]:
    """Yield the instructions that may follow an instruction, each with the names that are bound then."""
    instruction = instructions[position]
    name = {instruction.argval}
    if in_class and instruction.opname in _OF_NAMES:
        name = {f"{_CLASS}{instruction.argval}"}
    if (handler := handlers[position]) is not None and instruction.opname not in _BINDS:  # which cannot fail
        yield handler, state - name if instruction.opname in _DELETES else state
    if instruction.opname in _BINDS:
        state |= name
    elif instruction.opname in _DELETES:
        state -= name
    if instruction.opcode in _JUMPS:
        yield positions[instruction.argval], state
    if instruction.opname not in _NO_FALL_THROUGH and position + 1 < len(instructions):
        yield position + 1, state
