"""Rules of Cook that the product does not call yet; golden cases check them against the specification.

A rule moves out of this package with the first code that calls it:

- `clusters`: clusters that place jobs themselves, as Kubernetes does, and pools that are matched in turn;
- `heartbeats`: executors on Mesos hosts, whose instances may stop sending heartbeats;
- `placement_failures`: Cook's record of why a job was not placed; `matching` counts each host once;
- `staged_values`: settings that change for a growing portion of jobs;
- `uncommitted`: a store that accepts a large request in parts.

Hosts of the kind `HostKind.KUBERNETES` are not covered here: matching handles offers of every kind, but no
cluster makes such offers yet.
"""
