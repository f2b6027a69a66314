"""The periodic work of a scheduler: match, rebalance and maintenance cycles, and the loops that run them."""
