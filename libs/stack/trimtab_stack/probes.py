"""Asks a server, in its own protocol, whether it answers.

Plain sockets, so that it can be asked from any thread, with an event loop running or not, without a client's logging.
A probe never raises: a server that is not there, or says something else, does not answer.
"""

import socket
import struct

from trimtab_stack.ports import LOOPBACK

_TIMEOUT = 1.0
_METADATA, _METADATA_VERSION = 3, 4
_POSTGRES_PROTOCOL = 3 << 16
_POSTGRES_TERMINATE = b"X" + struct.pack(">i", 4)


def kafka_answers(port: int) -> bool:
    """Return whether the broker lists itself as one that clients may use (it is registered and not fenced)."""
    client = b"trimtab"
    body = struct.pack(
        f">hhih{len(client)}si?", _METADATA, _METADATA_VERSION, 1, len(client), client, 0, False
    )
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            (length,) = struct.unpack(">i", _read(connection, 4))
            _correlation, _throttle, brokers = struct.unpack_from(">iii", _read(connection, length))
            return bool(brokers > 0)
    except (OSError, struct.error):
        return False


def postgres_answers(port: int, user: str, database: str) -> bool:
    """Return whether a session on `database` as `user` opens."""
    names = b"user\0" + user.encode() + b"\0database\0" + database.encode() + b"\0\0"
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT) as connection:
            connection.sendall(struct.pack(">ii", 8 + len(names), _POSTGRES_PROTOCOL) + names)
            accepted = (
                _read(connection, 1) == b"R"
            )  # trust: the first answer is AuthenticationOk, or an error
            connection.sendall(_POSTGRES_TERMINATE)
            while connection.recv(4096):  # else the server logs a connection that was reset
                pass
            return accepted
    except OSError:
        return False


def _read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        if not (more := connection.recv(size - len(received))):
            raise ConnectionResetError
        received += more
    return received
