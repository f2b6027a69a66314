"""The simulator: the real service on simulated hosts, ruled by a hand-turned clock.

Lives here: the formats it reads and writes (`traces`, `config`, `edn`), the loop (`replay`), the policies
that it compares (`policies`), workloads to feed it (`workload`), and what its runs were worth (`measures`,
`report`).
Not here: any decision (`scheduling`), the hosts that are simulated (`clusters.simulated`).
"""
