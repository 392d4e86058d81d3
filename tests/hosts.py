"""Hosts made of Linux namespaces on this machine: each has its own network, name, processes and ``/etc/hosts``.

They share the machine's files, as with a network file system, and its kernel. A bridge in a namespace of its own
connects them, so nothing changes outside. A host lives as long as its first process, which ends when the test process
ends for any reason. The kernel then kills the host's other processes and removes its network.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

NETWORK = "10.77.0"
NOBODY = "02:00:00:00:00:01"
"""A hardware address that no host has: packets to it are lost silently."""
PARTS = ["--net", "--uts", "--ipc", "--mount", "--pid"]


class Namespaces:
    """New namespaces around a waiting process; they end with the block."""

    def __init__(self):
        # The shell ends when its standard input ends, at the latest with this process, and all processes inside with
        # it.
        self._keeper = subprocess.Popen(
            ["unshare", *PARTS, "--fork", "--kill-child", "--mount-proc", "sh", "-c", "echo; cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._keeper.stdout.readline() != "\n":
            reason = self._keeper.communicate()[1].strip()
            raise PermissionError(f"cannot create namespaces here: {reason}")
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children")
        self.pid = int(children.read_text())
        """Of the first process inside, as numbered outside."""

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(self, *_) -> None:
        self._keeper.communicate()

    def inside(self, *command: object) -> list[str]:
        """The command line that runs ``command`` in the namespaces."""
        return ["nsenter", f"--target={self.pid}", *PARTS, "--", *map(str, command)]

    def run(self, *command: object, timeout: float = 60, **options) -> subprocess.CompletedProcess:
        return subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=timeout, **options)

    def check(self, *command: object) -> None:
        """Run a command. Raises AssertionError if it fails."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"


class Host(Namespaces):
    """A host with one network card, connected to the switch."""

    def __init__(self, name: str, address: str, switch: Namespaces, card: str):
        super().__init__()
        self.name, self.address, self._switch, self._card = name, address, switch, card
        self.check("hostname", name)
        self.check("ip", "link", "set", "lo", "up")
        cable = f"ip link add {name} netns {switch.pid} type veth peer name {card} netns {self.pid}"
        subprocess.run(cable.split(), check=True)
        switch.check("ip", "link", "set", name, "up")
        self.check("ip", "address", "add", f"{address}/24", "dev", card)
        self.check("ip", "link", "set", card, "up")
        self.plug()

    @contextmanager
    def mounted(self, source: Path, target: Path) -> Iterator[None]:
        """On this host alone, ``source`` (a file or folder, with all mounts below it) hides ``target``."""
        self.check("mount", "--rbind", source, target)
        try:
            yield
        finally:
            self.check("umount", "--recursive", target)

    def name_on_loopback(self, folder: Path) -> AbstractContextManager:
        """This host's own name resolves to a loopback address, as in the ``/etc/hosts`` of Debian's installer."""
        (file := folder / f"hosts-{self.name}").write_text(
            Path("/proc", str(self.pid), "root/etc/hosts").read_text().replace(f"{self.address} ", "127.0.1.1 ")
        )
        return self.mounted(file, Path("/etc/hosts"))

    def plug(self) -> None:
        self._switch.check("ip", "link", "set", self.name, "master", "switch")

    def unplug(self) -> None:
        """From now on, all packets to and from this host are lost. Neither end is notified."""
        self._switch.check("ip", "link", "set", self.name, "nomaster")

    @contextmanager
    def deaf_to(self, other: Host) -> Iterator[None]:
        """No packet from this host reaches the other one, so they cannot connect."""
        self.check("ip", "neighbour", "replace", other.address, "dev", self._card, "lladdr", NOBODY, "nud", "permanent")
        try:
            yield
        finally:
            self.check("ip", "neighbour", "delete", other.address, "dev", self._card)


@contextmanager
def make_hosts(folder: Path, cards: dict[str, str]) -> Iterator[dict[str, Host]]:
    """Hosts by name. ``cards`` has the name of each host's network card; the first host gets the address 10.77.0.1.

    All resolve each other's names. ``folder`` receives their ``/etc/hosts``. Skips the test without permission for
    this.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can create the namespaces")
    with ExitStack() as stack:
        try:
            switch = stack.enter_context(Namespaces())
        except OSError as error:
            pytest.skip(str(error))
        switch.check("ip", "link", "add", "switch", "up", "type", "bridge")
        hosts = {
            name: stack.enter_context(Host(name, f"{NETWORK}.{number}", switch, card))
            for number, (name, card) in enumerate(cards.items(), start=1)
        }
        (names := folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in hosts.values())
        )
        for host in hosts.values():
            host.check("mount", "--bind", names, "/etc/hosts")
        yield hosts
