"""Persistence: the `Store` protocol and its implementations, in memory and on SQLite.

Lives here: everything durable, its schema and migrations, and the refusal of commands that no longer apply.
Not here: what to store (`service`, after `scheduling` has proposed it).
"""
