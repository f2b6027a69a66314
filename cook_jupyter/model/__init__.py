"""Domain types: jobs, instances, groups, pools, shares, quotas, reasons, and their life cycles.

Lives here: frozen values and the legal transitions between their states. Standard library only; no clock,
randomness, disk or network.
Not here: decisions about them (`scheduling`), their Cook JSON (`wire`), where they are stored (`store`).
"""
