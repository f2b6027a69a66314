"""The queue of a pool in columns: waiting jobs, running tasks, their order and sums."""
