"""The words: jobs, instances, groups, pools, shares, quotas, reasons; and the tables of how they live.

Lives here: frozen values and the legal steps between their states. Standard library only;
no clock, dice, disk or network.
Not here: what to do with them (`scheduling`), their Cook JSON (`wire`), where they rest (`store`).
"""
