"""Ports for servers that are told where to listen."""

import random
import socket
from contextlib import ExitStack

OWN = range(20_000, 32_000)
"""Below those that Linux gives to whoever asks for any, above those of Ray: nobody else gets one before it is used."""
CHANCE = random.SystemRandom()  # each process of tests draws others


def free_port() -> int:
    """A port of this machine at which nobody listens."""
    (port,) = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """So many of them, all different."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = CHANCE.choice(OWN)
            try:
                held.enter_context(socket.create_server(("localhost", port)))
            except OSError:
                continue
            found.append(port)
    return found
