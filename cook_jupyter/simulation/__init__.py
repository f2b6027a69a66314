"""The simulator: the real scheduler on simulated hosts, driven by a manual clock.

Lives here: file formats (`traces`, `config`, `edn`), the simulation loop (`replay`), the policies to compare
(`policies`), generated workloads (`workload`), and the evaluation of a run (`measures`, `comparison`,
`report`).
Not here: any scheduling decision (`scheduling`), the simulated hosts (`clusters.simulated`).
"""
