"""The host side: warm Python workers and shell commands, each in its own process group.

Lives here: starting, limiting, watching and stopping what users run. Needs only `payload`, cloudpickle and
the standard library, so that it runs on any host with Python.
Not here: which job runs (`scheduling`), how schedulers reach a host (`clusters`).
"""
