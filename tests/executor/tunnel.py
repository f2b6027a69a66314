"""A TCP forwarder between two machines on one: each side sees the same path, and a folder of its own there.

`Tunnel` forwards connections as `ssh -L` does. In what passes it replaces the path of the client's folder by
that of the scheduler's, and back. So both sides use one path for two folders, as two machines with equal home
directories do.
"""

import socket
import socketserver
import threading
from types import TracebackType
from typing import Self

_READ_BYTES = 64 * 1024


class Tunnel:
    """A forwarder on 127.0.0.1.

    Args:
        target: address of the scheduler.
        near: path of a folder of the client.
        far: path that the same text means to the scheduler; as long as `near`.
    """

    def __init__(self, target: tuple[str, int], *, near: str = "", far: str = "") -> None:
        assert len(near) == len(far)
        near_path, far_path = near.encode(), far.encode()

        class Connection(socketserver.BaseRequestHandler):
            request: socket.socket

            def handle(self) -> None:
                with socket.create_connection(target) as other:
                    back = threading.Thread(target=forward, args=(other, self.request, far_path, near_path))
                    back.start()
                    forward(self.request, other, near_path, far_path)
                    back.join()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Where the client finds the scheduler."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def forward(source: socket.socket, target: socket.socket, old: bytes, new: bytes) -> None:
    """Forward bytes until one side closes, with `old` replaced by `new`."""
    held = b""
    try:
        while data := source.recv(_READ_BYTES):
            data = (held + data).replace(old, new) if old else data
            # The beginning of a path at the end of what has arrived waits for the rest.
            cut = next((n for n in range(len(old) - 1, 0, -1) if data.endswith(old[:n])), 0)
            held = data[len(data) - cut :]
            target.sendall(data[: len(data) - cut])
        target.sendall(held)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            end.close()
