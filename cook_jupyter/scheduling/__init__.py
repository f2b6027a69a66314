"""Decide: pure functions of a snapshot and a queue.

Each box is a sub-package or a module and imports only from boxes further down; `lint-imports` enforces it.

```
    decisions      planned          what the service calls; rules of Cook that nothing calls yet
    heads                           which jobs are at the head of the queue
    snapshot                        all that a decision reads besides the queue
    explaining     growth           why a job waits; which cluster is asked for hosts
    rebalancing                     who is preempted for whom
    matching                        jobs onto hosts; room kept for the heads of the queue
    hosts          ranking          what hosts offer; the order of jobs
    queue                           waiting jobs and running tasks in columns
    constraints                     demands of jobs on hosts
    limits                          launch rates, queue lengths, run times, patterns of pool names
    tables  launch_filter           columns that grow; the protocol of launch plugins
```

Not here: a clock, a disk, a loop. Time and ids are arguments; a decision changes nothing by itself (`service`
commits it).
"""
