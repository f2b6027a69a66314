"""Mutation tests of `model` and `scheduling`: does any test fail when a line of a decision is changed?

`mutations` makes the mutants, `runner` runs tests against them, `report` writes docs/reference/mutants.md;
`python -m tests.mutation` (`make mutants`) does all of it.

Existing tools were not practical: mutmut 3 skips functions with decorators (all properties and the DRU of
columns), and starts a session of pytest for each mutant. Here pytest collects once, and each mutant is a fork
of that process in which the code object of one function is replaced. Its cost is that of the tests up to the
first that fails. What a quick stage does not kill is tried again in a thorough one.
"""
