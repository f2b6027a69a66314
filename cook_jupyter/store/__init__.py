"""Remember: one `Store` protocol and its twins, one in memory and one on SQLite.

Lives here: what is durable, its schema and migrations, and the refusal of a commit that no longer holds.
Not here: what to commit (`service`, after `scheduling` has proposed it).
"""
