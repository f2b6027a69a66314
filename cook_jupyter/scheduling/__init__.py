"""Decide: pure functions of a snapshot.

Lives here: dominant resource usage, ranking, what is considerable, matching, and why a job still waits.
Not here: a clock, a disk, a loop. Time and ids are arguments; a decision changes nothing by itself
(`service` commits it).
"""
