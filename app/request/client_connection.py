"""How the client's connection ends where a response broke off."""

import socket
import struct

from app.request.inbound import Inbound


def abort_with_reset(inbound: Inbound, on: bool = True) -> None:
    """Makes the end of the client's connection a reset, or a plain one again. Without a length or
    chunks (HTTP/1.0) a plain end would look like the end of the body."""
    connection: socket.socket | None = inbound.environ.get("gunicorn.socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, 0))
