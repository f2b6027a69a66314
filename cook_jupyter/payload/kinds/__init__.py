"""Kinds of objects that a pickle alone does not carry whole, and how each travels.

    functions    functions of `__main__` and closures: one copy of their globals and cells
    classes      classes of `__main__`, whatever their metaclass; found by `pickle` inside the job
    enums        enumerations, with all that their members hold
    native       classes of ctypes
    wrappers     what functools, contextvars, threading and weakref put around objects
    names        objects that `pickle` only knows by a name: NewType, ParamSpec, sentinels, singletons
    exceptions   exceptions, whatever their `__init__` takes
    refused      what cannot travel, and what to do instead

Each module has functions that take an object apart (`reduce_...`), for the pickler of `payload.pickling`, and
functions that a pickle calls to put it together: `make_...` creates the object, `fill_...` gives it its state
once it can be referred to. A test runs each kind and compares the table in `docs/reference/what-travels.md`.

The idea and much of the work are cloudpickle's; here is what it leaves out, or
sends by a name that no host knows.
"""
