"""A real Mesos 1.11.0 on this machine: a master and agents as processes that tests can kill and restart.

    cluster      `LocalMesos`: starts, kills and restarts nodes; tells their addresses
       ├── supervisor        the program that starts the nodes and ends all that they leave behind
       ├── command_executor  stands in for `mesos-executor`, which the artefact lacks
       └── fetcher           stands in for `mesos-fetcher`, likewise
    install      gets Mesos from the package index and builds the programs around it
       └── native/           `main` of the nodes, and substitutes for libraries that are no longer shipped

The package `mesos.scheduler` 1.11.0 contains an extension module of Python 2.7 with all of libmesos linked in
and its symbols exported. It is neither changed nor loaded by Python: `native/mesos-node.cpp` calls the
classes of the master, the agent and the containerizer in it.

Real are the master, the agent, the allocator, the registry, the containerizer with its `launch` program,
authentication, authorization and all HTTP APIs. Custom executors bring their own code, so with them all but
the fetcher is Mesos. Limits of this build:

- No TLS, no tokens (`jwt_secret_key`): a call of OpenSSL aborts the node.
- The command executor ignores checks, health checks and images. There is no default executor (task groups)
  and no Docker containerizer.
- A stand-alone master, without ZooKeeper. A restarted master keeps its registry; agents find it again
  through their ping timeout.
- Agents load no ACLs, modules or hooks; the master loads ACLs.
- The isolators `posix/cpu` and `posix/mem` limit nothing.

Flags whose defaults differ from those of Mesos, so that tests are fast: `allocation_interval` 100 ms (1 s),
`agent_ping_timeout` x `max_agent_ping_timeouts` 1 s x 5 (15 s x 5), `registration_backoff_factor` 10 ms (1
s).
"""
