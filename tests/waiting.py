"""How long tests wait before they call something hung.

A wait ends as soon as what it waits for has happened, so a long limit costs a passing test nothing. A short
one would judge the speed of the machine.
"""

HANG_S = 90.0
"""Longest wait for one thing; only what hangs uses it up."""
