"""Names of this machine's network interfaces, for libraries that need a name, not an address. Standard library only."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import closing, suppress

SIOCGIFADDR = 0x8915


def interface_towards(host: str) -> str | None:
    """The interface whose address this machine uses to reach ``host``; None if unknown, for example with IPv6."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe, suppress(OSError):
        probe.connect((host, 9))  # a datagram socket only looks up the route, and sends nothing
        own_address = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("16s24x", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own_address:
                    return name
    return None
