"""Run: offers in, launches and kills out, status updates back, and nothing else.

Lives here: the `ComputeCluster` protocol and its implementations, each held to one contract suite.
Not here: which job goes where (`scheduling`); what a status update means for a job (`service`, by
`model.lifecycle`).
"""
