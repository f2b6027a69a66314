"""Ask: a scheduler from the outside.

Lives here: finding a scheduler (or starting the embedded one, as a process), requests, replies, the
stream of events.
Not here: calls and futures (`executor`); anything of the scheduler's own code: between the two goes HTTP.
"""
