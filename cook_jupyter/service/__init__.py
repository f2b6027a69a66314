"""The running scheduler: it owns the event loop, the clock and every view of the store in memory.

Each box is a sub-package or a module and imports only from boxes further down; `lint-imports` enforces it.

```
    process                         lock the home directory, start everything, end it
    cycles         cluster_updates  read, decide, commit, act; apply what clusters report
    scheduler                       the facade: all that the API and the cycles may ask
    requests                        check submissions, stream events, report usage, explain, dump
    snapshots      actions          gather what a decision reads; kill instances, let clusters grow
    state                           queues, limits, rates, reservations: views that follow the commits
    settings                        what the operator may set; the home directory
    clock                           the time
```

Not here: decisions (`scheduling`), durable state (`store`), hosts (`clusters`), HTTP (`api`).
"""
