"""The secret by which an instance may report its own progress, and nothing else.

Lives here: `InstanceSecrets`. Not here: how an instance learns its secret (`clusters`), how it shows it
(`api.progress`).

A secret follows from the instance's id and a key of the home, so that it need not be stored, and holds for an
instance that outlives its scheduler.
"""

import hmac

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.payload.keys import Key

_PURPOSE = b"cook_jupyter instance "


class InstanceSecrets:
    """The secrets of all instances of a home.

    Args:
        key: the home's key.
    """

    def __init__(self, key: Key) -> None:
        self._key = key

    def of(self, instance_id: InstanceId) -> str:
        """Return the secret of an instance."""
        return self._key.sign(_PURPOSE + instance_id.encode()).hex()

    def matches(self, instance_id: InstanceId, secret: str) -> bool:
        """Return whether this is the secret of the instance."""
        return hmac.compare_digest(self.of(instance_id).encode(), secret.encode("utf-8", "surrogateescape"))
