"""The state that decisions need, in memory: views that follow the commits of the store."""
