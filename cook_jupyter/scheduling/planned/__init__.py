"""Rules of Cook that no part of the product calls yet; golden cases hold them to the specification.

A rule leaves this package with the part that calls it:

- `clusters`: clusters that place jobs themselves, as Kubernetes does, and pools that are matched in turns;
- `heartbeats`: the executor on hosts of Mesos, whose instances may go silent;
- `placement_failures`: Cook's own store of why a job was not placed; ours counts each host once (`matching`);
- `staged_values`: settings that change for a growing portion of jobs;
- `uncommitted`: a store that takes a large request in parts.

Hosts of the kind `HostKind.KUBERNETES` have no place of their own here: matching takes offers of every kind,
and no cluster makes such offers yet.
"""
