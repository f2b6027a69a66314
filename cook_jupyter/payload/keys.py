"""Signing keys of users.

Lives here: one key per user, in a file that nobody else can read, and signing with it.
Not here: what is signed (`payload.envelope`).

A signature proves who created the bytes, not that they are harmless.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from cook_jupyter.errors import Unverifiable

KEY_BYTES = 32

_BLOCK_BYTES = 64  # of SHA-256
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class Key:
    """A secret key for signing. Its `key_id` is public; its repr does not show the secret."""

    __slots__ = ("_inner", "_outer", "key_id")

    def __init__(self, secret: bytes) -> None:
        self.key_id = hashlib.sha256(b"cook_jupyter key id" + secret).hexdigest()[:16]
        # HMAC as in RFC 2104, with both hashes initialized with the key once: hmac.digest takes 20 µs longer
        # for each call, because OpenSSL 3 looks the algorithm up each time.
        block = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret).ljust(
            _BLOCK_BYTES, b"\0"
        )
        self._inner = hashlib.sha256(block.translate(_INNER))
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def __repr__(self) -> str:
        return f"Key({self.key_id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self.sign(b""), other.sign(b""))

    def __hash__(self) -> int:
        return hash(self.key_id)

    def sign(self, content: bytes) -> bytes:
        """Return the HMAC-SHA256 of `content`, 32 bytes."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(content)
        outer.update(inner.digest())
        return outer.digest()


def make_key(secret: bytes) -> Key:
    """Return a key made from 32 or more random bytes.

    Raises:
        Unverifiable: the secret is too short to be safe.
    """
    if len(secret) < KEY_BYTES:
        raise Unverifiable(
            f"a signing key has {KEY_BYTES} bytes, this one {len(secret)}; payloads without a key are refused"
        )
    return Key(secret)


def read_key(path: str | Path) -> Key:
    """Read the key in a file.

    Raises:
        Unverifiable: the file is missing or broken, or others may read or change it.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - called for each call
        version = (status.st_ino, status.st_mtime_ns, status.st_mode)
        cached = _key_cache.get(str(path))
        if cached is not None and cached[0] == version:
            return cached[1]
        text = Path(path).read_bytes()
    except OSError as error:
        raise Unverifiable(
            f"the signing key {path} cannot be read ({error.strerror}); payloads without a key are refused"
        ) from error
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Unverifiable(
            f"the signing key {path} is open to other users: chmod 600 it, or remove it to get a new one"
        )
    try:
        key = make_key(bytes.fromhex(text.decode("ascii").strip()))
    except ValueError as error:
        raise Unverifiable(f"the signing key {path} is broken: remove it to get a new one") from error
    _key_cache[str(path)] = version, key
    return key


_key_cache: dict[
    str, tuple[tuple[int, ...], Key]
] = {}  # by path; a worker reads the same key again and again


def read_or_make_key(path: str | Path) -> Key:
    """Read the key in a file, which is created if needed; processes that do so at once get the same key."""
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES).hex().encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first: its key is used
                os.link(temporary, path)
        finally:
            temporary.unlink()
    return read_key(path)
