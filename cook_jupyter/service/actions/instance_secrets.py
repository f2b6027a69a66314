"""The secret with which an instance may report its own progress, and nothing else.

Lives here: `InstanceSecrets`. Not here: how an instance receives its secret (`clusters`), how it presents it
(`api.progress`).

A secret is computed from the id of the instance and a key of the home directory. So it need not be stored,
and remains valid for instances that outlive their scheduler.
"""

import hmac

from cook_jupyter.model.instance import InstanceId
from cook_jupyter.payload.keys import Key

_PURPOSE = b"cook_jupyter instance "


class InstanceSecrets:
    """The secrets of all instances of a home directory.

    Args:
        key: key of the home directory.
    """

    def __init__(self, key: Key) -> None:
        self._key = key

    def of(self, instance_id: InstanceId) -> str:
        """Return the secret of an instance."""
        return self._key.sign(_PURPOSE + instance_id.encode()).hex()

    def matches(self, instance_id: InstanceId, secret: str) -> bool:
        """Return whether a secret is that of an instance. Takes constant time."""
        return hmac.compare_digest(self.of(instance_id).encode(), secret.encode("utf-8", "surrogateescape"))
