"""Kinds of objects that plain pickling does not reproduce completely, and how each is sent.

    functions    functions of `__main__` and closures: one copy of their globals and cells
    classes      classes of `__main__`, whatever their metaclass; found by `pickle` inside the job
    enums        enumerations, with all attributes of their members
    native       classes of ctypes
    wrappers     wrappers of functools, contextvars, threading and weakref
    names        objects that `pickle` only refers to by name: NewType, ParamSpec, sentinels, singletons
    exceptions   exceptions, whatever the arguments of their `__init__`
    refused      what cannot be sent, and what to do instead

Each module has functions that reduce an object for the pickler (`reduce_...`) of `payload.pickling`, and
functions that the pickle calls to rebuild it: `make_...` creates the object, and `fill_...` sets its state
once other objects can refer to it. A test runs each kind and compares the table in
`docs/reference/what-travels.md`.

The idea and much of the work are cloudpickle's; this package covers what cloudpickle omits, or sends by a
name that no host knows.
"""
