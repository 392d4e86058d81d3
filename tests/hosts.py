"""Hosts made of Linux namespaces on this machine: each has its own network, name, processes and ``/etc/hosts``.

They share the machine's files, as over a network file system, and its kernel. All hosts hang on one switch, a bridge
that is in a namespace too, so nothing is changed outside. A host lives as long as its first process, which ends when
the test process does, however that ends: then its other processes are killed and its network is gone.
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
"""A hardware address that no host has: what is sent there is lost without a word."""
PARTS = ["--net", "--uts", "--ipc", "--mount", "--pid"]


class Namespaces:
    """Fresh namespaces around a process that waits; they end with the block."""

    def __init__(self):
        # The shell ends with its standard input, so also with this process, and all others inside with it.
        self._keeper = subprocess.Popen(
            ["unshare", *PARTS, "--fork", "--kill-child", "--mount-proc", "sh", "-c", "echo; cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._keeper.stdout.readline() != "\n":
            why = self._keeper.communicate()[1].strip()
            raise PermissionError(f"no namespaces can be made here: {why}")
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children")
        self.pid = int(children.read_text())
        """Of the first process inside, as it is known outside."""

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(self, *_) -> None:
        self._keeper.communicate()

    def inside(self, *command: object) -> list[str]:
        """The command line that runs ``command`` inside."""
        return ["nsenter", f"--target={self.pid}", *PARTS, "--", *map(str, command)]

    def run(self, *command: object, timeout: float = 60, **options) -> subprocess.CompletedProcess:
        return subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=timeout, **options)

    def do(self, *command: object) -> None:
        """Raises AssertionError where it fails."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"


class Host(Namespaces):
    """A host with one network card, plugged into the switch."""

    def __init__(self, name: str, address: str, switch: Namespaces, card: str):
        super().__init__()
        self.name, self.address, self._switch, self._card = name, address, switch, card
        self.do("hostname", name)
        self.do("ip", "link", "set", "lo", "up")
        cable = [
            "ip",
            "link",
            "add",
            name,
            "netns",
            switch.pid,
            "type",
            "veth",
            "peer",
            "name",
            card,
            "netns",
            self.pid,
        ]
        subprocess.run(list(map(str, cable)), check=True)
        switch.do("ip", "link", "set", name, "up")
        self.do("ip", "address", "add", f"{address}/24", "dev", card)
        self.do("ip", "link", "set", card, "up")
        self.plug()

    @contextmanager
    def sees(self, instead: Path, place: Path) -> Iterator[None]:
        """A file or folder in the place of another one, on this host alone; with what is mounted below it."""
        self.do("mount", "--rbind", instead, place)
        try:
            yield
        finally:
            self.do("umount", "--recursive", place)

    def calls_itself_loopback(self, folder: Path) -> AbstractContextManager:
        """As Debian's installer writes ``/etc/hosts``: this host's own name leads nowhere but to itself."""
        (file := folder / f"hosts-{self.name}").write_text(
            Path("/proc", str(self.pid), "root/etc/hosts").read_text().replace(f"{self.address} ", "127.0.1.1 ")
        )
        return self.sees(file, Path("/etc/hosts"))

    def plug(self) -> None:
        self._switch.do("ip", "link", "set", self.name, "master", "switch")

    def unplug(self) -> None:
        """From now on, whatever is sent to this host or from it is lost. Neither end is told."""
        self._switch.do("ip", "link", "set", self.name, "nomaster")

    @contextmanager
    def deaf_to(self, other: Host) -> Iterator[None]:
        """Nothing that this host sends to the other one arrives, so no connection between them comes about."""
        self.do("ip", "neighbour", "replace", other.address, "dev", self._card, "lladdr", NOBODY, "nud", "permanent")
        try:
            yield
        finally:
            self.do("ip", "neighbour", "delete", other.address, "dev", self._card)


@contextmanager
def make_hosts(folder: Path, cards: dict[str, str]) -> Iterator[dict[str, Host]]:
    """Hosts by name, for each the name of its network card; the first has the address 10.77.0.1. All know each other's
    names. ``folder`` is for their ``/etc/hosts``. Skips the test where this is not permitted."""
    if os.geteuid() != 0:
        pytest.skip("hosts are namespaces, which only root can make")
    with ExitStack() as stack:
        try:
            switch = stack.enter_context(Namespaces())
        except OSError as error:
            pytest.skip(str(error))
        switch.do("ip", "link", "add", "switch", "up", "type", "bridge")
        hosts = {
            name: stack.enter_context(Host(name, f"{NETWORK}.{number}", switch, card))
            for number, (name, card) in enumerate(cards.items(), start=1)
        }
        (names := folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in hosts.values())
        )
        for host in hosts.values():
            host.do("mount", "--bind", names, "/etc/hosts")
        yield hosts
