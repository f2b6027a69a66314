"""Rank: the order of waiting jobs by dominant resource usage, and which of them are considerable."""
