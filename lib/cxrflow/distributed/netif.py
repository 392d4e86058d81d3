"""Names of this machine's network interfaces, for libraries that take them instead of addresses. Standard library only."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import closing, suppress

SIOCGIFADDR = 0x8915


def interface_towards(host: str) -> str | None:
    """The interface that has the address from which this machine talks to ``host``, its own or another's; None where
    that cannot be told, as with IPv6."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asked, suppress(OSError):
        asked.connect((host, 9))  # of a datagram socket: it looks for the way and sends nothing
        own = asked.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("16s24x", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return None
