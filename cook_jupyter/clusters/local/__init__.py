"""This machine as a cluster of one host, through its node agent.

Lives here: finding or starting the agent, the room there is, launches out and ends in.
Not here: running anything (`worker`).
"""
