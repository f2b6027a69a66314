"""The simulation finds what is put wrong in the service on purpose."""

from itertools import chain

import pytest

from tests.service.simulated.mutants import MUTANTS
from tests.service.simulated.simulation import simulate

MOST_SEEDS = 300


@pytest.mark.parametrize("name", MUTANTS)
def test_the_simulation_finds_a_fault_that_is_put_into_the_service(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant, known = MUTANTS[name]
    mutant(monkeypatch)

    # When the simulation has changed, the seed that is known stands for another run: then it is searched for.
    assert any(simulate(seed).violation for seed in chain([known], range(MOST_SEEDS)))
