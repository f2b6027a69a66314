"""Rebalance: which running tasks are preempted for which waiting jobs."""
