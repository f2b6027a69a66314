"""Live: the scheduler as a process. The one floor that owns a loop and a clock.

Lives here: the cycles (look, decide, commit, act), what clusters report, what happens after a restart,
the settings.
Not here: decisions (`scheduling`), memory (`store`), hosts (`clusters`), HTTP (`api`).
"""
