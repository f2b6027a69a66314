"""Decisions, as pure functions of a snapshot and a queue.

Each box is a sub-package or a module and imports only from boxes further down; `lint-imports` enforces it.

```
    decisions      planned          entry points of the service; rules of Cook that nothing calls yet
    heads                           which jobs are at the head of the queue
    snapshot                        all that a decision reads besides the queue
    explaining     growth           why a job waits; which jobs clusters should grow for
    rebalancing                     which tasks are preempted for which jobs
    matching                        assign jobs to hosts; keep room for the heads of the queue
    hosts          ranking          room and constraints of hosts; the order of jobs
    queue                           waiting jobs and running tasks in columns
    constraints                     demands of jobs on hosts
    limits                          launch rates, queue lengths, run times, patterns of pool names
    arrays  launch_filter           columns of numbers; the operator's launch filter
```

Not here: a clock, a disk, a loop. Time and ids are arguments; a decision changes nothing by itself (`service`
commits it).
"""
