"""Queue of launches that wait for a worker.

Lives here: `LaunchQueue`, first come, first served among the launches of one user and interpreter.
Not here: when a launch gets a worker (`worker.supervisor`), the workers (`worker.pool`).
"""

from collections import deque
from collections.abc import Iterator, Sequence

from cook_jupyter.worker.frames import Frame, Header


class LaunchQueue:
    """Queues of launch frames, by interpreter and user."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, deque[Frame]]] = {}
        self._waiting: dict[
            str, Frame
        ] = {}  # by instance; removed launches stay in `_queues` until their turn

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._waiting

    def put(self, python: str, launch: Frame) -> None:
        """Add a launch at the end of its user's queue for an interpreter."""
        header = launch.header
        self._queues.setdefault(python, {}).setdefault(header["user"], deque()).append(launch)
        self._waiting[header["instance_id"]] = launch

    def users(self, python: str) -> Sequence[str]:
        """Return the users who may have launches waiting for an interpreter."""
        return list(self._queues.get(python, ()))

    def first(self, python: str, user: str) -> Frame | None:
        """Return the first launch of a user; None if none waits."""
        queue = self._queues[python][user]
        while queue:
            launch = queue[0]
            if self._waiting.get(launch.header["instance_id"]) is launch:
                return launch
            queue.popleft()
        del self._queues[python][user]
        return None

    def pop(self, python: str, user: str) -> None:
        """Remove the launch that `first` returned."""
        launch = self._queues[python][user].popleft()
        del self._waiting[launch.header["instance_id"]]

    def remove(self, instance_id: str) -> Frame | None:
        """Remove the launch of an instance and return it; None if it does not wait."""
        return self._waiting.pop(instance_id, None)

    def drain(self, python: str) -> Sequence[Frame]:
        """Remove and return all launches that wait for an interpreter."""
        launches = [launch for queue in self._queues.pop(python, {}).values() for launch in queue]
        return [launch for launch in launches if self.remove(launch.header["instance_id"]) is not None]

    def count(self, python: str) -> int:
        """Return how many launches wait for an interpreter, at most."""
        return sum(map(len, self._queues.get(python, {}).values()))

    def interpreters(self) -> Iterator[str]:
        """Yield the interpreters for which launches may wait."""
        return (python for python, queues in self._queues.items() if queues)

    def headers(self) -> Iterator[Header]:
        """Yield the headers of all waiting launches."""
        return (launch.header for launch in self._waiting.values())
