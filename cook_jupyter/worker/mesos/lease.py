"""The lease of an executor's tasks: they may go on only while somebody accounts for them.

Lives here: `Lease`. No clock and no I/O.
Not here: what happens when it is over (`worker.mesos.executor`).

Nobody ends an executor whose agent is gone for good, or whose scheduler has given its tasks up. So it ends
itself, after the recovery timeout of its agent, or after the time that its scheduler allows if that is
shorter. A stopped agent is silent without any sign on the connection; then the scheduler is silent, too.
"""


class Lease:
    """When the tasks of an executor must end.

    Args:
        recovery_timeout_s: time in seconds after which the agent no longer takes the executor back.
        now: monotonic time in seconds, like all times here.
    """

    def __init__(self, recovery_timeout_s: float, now: float) -> None:
        self._recovery_timeout_s = recovery_timeout_s
        self._limit_s = recovery_timeout_s
        self._last_word = now
        self._agent_lost_at: float | None = now

    def on_word(self, now: float, *, lease_s: float | None = None) -> None:
        """Note a word from the scheduler.

        Args:
            now: time of the word.
            lease_s: time that it allows without another; None for the time that it has allowed before.
        """
        self._last_word = now
        if lease_s is not None:
            self._limit_s = min(self._recovery_timeout_s, lease_s)

    def on_agent(self, now: float, *, is_connected: bool) -> None:
        """Note that the connection to the agent was made or lost."""
        if is_connected:
            self._agent_lost_at = None
        elif self._agent_lost_at is None:
            self._agent_lost_at = now

    def over(self, now: float) -> str | None:
        """Return why the tasks must end; None if they may go on."""
        if self._agent_lost_at is not None and now - self._agent_lost_at >= self._limit_s:
            return f"no agent for {self._limit_s:g} s"
        if now - self._last_word >= self._limit_s:
            return f"no word from the scheduler for {self._limit_s:g} s"
        return None
