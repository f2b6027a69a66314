"""Limits over time and by name: launch rates, queue lengths, run times, progress, patterns of pools."""
