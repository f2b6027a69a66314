"""The process of a scheduler: its lock, its node agent, its start and its end."""
