"""What runs where the work is: warm Python workers and shell commands, each in a process group of its own.

Lives here: starting, limiting, watching and stopping what users run. Needs `payload`, cloudpickle
and the standard library alone, so that it runs on any host that has Python.
Not here: which job runs (`scheduling`), or how the host is spoken to (`clusters`).
"""
