"""What goes wrong, and when: each kind of fault by a seeded generator of its own.

Lives here: `Faults`, which counts each fault that happens, and the windows in which the store is slow or
refuses. Not here: how often each kind happens (`scenario`), the tasks that crash schedulers and lose hosts
(`simulation`).
"""

from collections import Counter
from collections.abc import Callable
from random import Random

from cook_jupyter.errors import SchedulerError, StoreBusy, StoreFull
from tests.service.simulated.scenario import Scenario
from tests.service.simulated.trace import Trace

USUAL_DELAY_S = 0.01  # longest, of a message
LONG_DELAY_S = 5.0
SLOW_STORE_S = 2.0  # longest answer of a slow store


class Faults:
    """The faults of one simulation; `heal` ends them.

    Attributes:
        counts: number of faults that happened, by kind.
        healed: whether nothing goes wrong any more.
    """

    def __init__(self, scenario: Scenario, trace: Trace, time: Callable[[], float]) -> None:
        self._rates = scenario.rates
        self._trace = trace
        self._time = time
        self._rngs = {kind: Random(f"{scenario.seed} {kind}") for kind in (*scenario.rates, "usual")}
        self._slow_until_s = 0.0
        self._refuses_until_s = 0.0
        self.counts: Counter[str] = Counter()
        self.healed = False

    def rng(self, kind: str) -> Random:
        """Return the generator of one kind of fault."""
        return self._rngs[kind]

    def happens(self, kind: str) -> bool:
        """Return whether a fault that has a probability happens now."""
        rate = self._rates.get(kind)
        if rate is None or self.healed or self._rngs[kind].random() >= rate:
            return False
        self.count(kind)
        return True

    def interval_s(self, kind: str) -> float | None:
        """Return the time until the next fault of a kind; None if the kind does not happen."""
        rate = self._rates.get(kind)
        return None if rate is None else self._rngs[kind].expovariate(1 / rate)

    def count(self, kind: str, *details: object) -> None:
        """Note a fault that happens."""
        self.counts[kind] += 1
        self._trace.note("fault", kind, *details)

    def heal(self) -> None:
        """Let nothing go wrong from now on."""
        self.healed = True
        self._slow_until_s = self._refuses_until_s = 0.0

    # --- messages

    def delay_s(self) -> float:
        """Return how long a message takes."""
        usual = self._rngs["usual"].uniform(0, USUAL_DELAY_S)
        return usual + self._rngs["delay"].uniform(0, LONG_DELAY_S) if self.happens("delay") else usual

    # --- the store

    def slow_store(self) -> None:
        """Begin a while in which the store is slow."""
        self.count("store_slow")
        self._slow_until_s = self._time() + self._rngs["store_slow"].uniform(1, 8)

    def refusing_store(self) -> None:
        """Begin a while in which the store refuses most commands."""
        self.count("store_refuses")
        self._refuses_until_s = self._time() + self._rngs["store_refuses"].uniform(1, 8)

    def store_delay_s(self) -> float:
        """Return how long a step of the store takes."""
        if self._time() < self._slow_until_s:
            return self._rngs["store_slow"].uniform(0, SLOW_STORE_S)
        return self._rngs["usual"].choice([0.0, 0.0, 0.001, 0.005])

    def store_refusal(self) -> SchedulerError | None:
        """Return the error of a command that the store refuses now."""
        if self._time() >= self._refuses_until_s or self._rngs["store_refuses"].random() < 0.2:
            return None
        self.counts["commands refused"] += 1
        return self._rngs["store_refuses"].choice(
            [StoreFull("the simulated disk is full"), StoreBusy("the simulated store is locked")]
        )
