"""What pymesos needs of the package http-parser, on h11.

Lives here: `HttpParser`, with the methods that pymesos calls, and `provide_parser`.
Not here: the connection that uses pymesos (`clusters.mesos.transport.pymesos_connection`).

http-parser 0.9.0 is from 2020: its C was generated for Python 3.10 and older and does not compile with a
newer one, and its setup.py does not run on 3.12.
"""

import contextlib
import sys
from types import ModuleType

import h11

_INVALID = 1


class HttpParser:
    """Parses the response to one request."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(
            h11.Request(method="POST", target="/", headers=[("Host", "-"), ("Content-Length", "0")])
        )
        self._http.send(h11.EndOfMessage())
        self._response: h11.Response | None = None
        self._body = bytearray()
        self._is_complete = False
        self._error = 0

    def execute(self, data: bytes, size: int) -> int:
        """Parse bytes; return how many were parsed, fewer than there are if they are not HTTP."""
        if self._is_complete or self._error:
            return size
        try:
            self._http.receive_data(data[:size])
            self._parse()
        except h11.RemoteProtocolError:
            self._error = _INVALID
            return 0
        return size

    def _parse(self) -> None:
        while (event := self._http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                self._response = event
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._is_complete = True
                return

    def get_errno(self) -> int:
        """Return a number other than 0 after bytes that are not HTTP."""
        return self._error

    def is_headers_complete(self) -> bool:
        """Return whether the head has arrived; of a refusal, all of it: pymesos does not wait for that."""
        return self._response is not None and (self._response.status_code == 200 or self._is_complete)

    def get_status_code(self) -> int:
        """Return the status."""
        return 0 if self._response is None else self._response.status_code

    def get_headers(self) -> dict[str, str]:
        """Return the headers."""
        headers = [] if self._response is None else self._response.headers
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}

    def is_chunked(self) -> bool:
        """Return whether the body is chunked."""
        return self.get_headers().get("transfer-encoding", "").lower() == "chunked"

    def is_partial_body(self) -> bool:
        """Return whether there are bytes of the body to be taken."""
        return bool(self._body)

    def recv_body(self) -> bytes:
        """Take the bytes of the body that have arrived."""
        body = bytes(self._body)
        self._body.clear()
        return body

    def is_message_complete(self) -> bool:
        """Return whether the whole response has arrived."""
        return self._is_complete


def provide_parser() -> None:
    """Let pymesos find a parser, unless http-parser is installed."""
    with contextlib.suppress(ImportError):
        __import__("http_parser.http")
        return
    package, module = ModuleType("http_parser"), ModuleType("http_parser.http")
    module.HttpParser = HttpParser  # type: ignore[attr-defined]
    package.http = module  # type: ignore[attr-defined]
    sys.modules.setdefault("http_parser", package)
    sys.modules.setdefault("http_parser.http", module)
