"""Network namespaces without names. They last as long as this process holds them, so a crash leaves nothing behind.

Counterpart: ``ip netns``, which keeps namespaces by mounting them. The namespace of the caller is never changed.
"""

import ctypes
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kpsim.lab.calls import LabError, ToolFailed, call

_CLONE_NEWNET = 0x40000000
_HERE = "/proc/thread-self/ns/net"


class Namespace:
    """A new network namespace that holds lo only. It ends with ``close``, or with the process."""

    def __init__(self) -> None:
        home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("unshare", _CLONE_NEWNET)
            try:
                self._fd = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
            finally:
                _call("setns", home, _CLONE_NEWNET)
        finally:
            os.close(home)

    @property
    def path(self) -> str:
        """A name for the namespace that ``ip link … netns`` accepts while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        os.close(self._fd)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Moves this thread into the namespace for a while. Sockets and processes that it opens there stay there."""
        home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", self._fd, _CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", home, _CLONE_NEWNET)
        finally:
            os.close(home)

    def socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        with self.entered():
            return socket.socket(family, kind, protocol)

    def run(self, command: Sequence[str], *, stdin: str = "") -> str:
        """Runs a command in the namespace and returns its output. LabError as from :func:`kpsim.lab.calls.call`."""
        with self.entered():
            return call(command, stdin)

    def listed(self, command: Sequence[str]) -> list[dict[str, Any]]:
        """What a command of iproute2 lists as JSON, without empty entries. LabError if it prints anything else."""
        found = self.run(command)
        try:
            listed = json.loads(found)
        except ValueError:
            listed = None
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise LabError(f"{' '.join(command)} printed something else than a list: nothing can be measured with it")
        return [each for each in listed if each]

    def complaint(self, command: Sequence[str], stdin: str = "") -> str | None:
        """The first line of what a command complains of; None if it succeeds. LabError if it does not end, or prints
        no text.
        """
        try:
            self.run(command, stdin=stdin)
        except ToolFailed as error:
            return str(error).partition("\n")[0]
        return None

    def ip(self, lines: Sequence[str], *options: str) -> None:
        """Runs ``ip`` once for all lines. A line is written like the arguments of ``ip``."""
        if lines:
            self.run(["ip", *options, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))

    def has_sysctl(self, name: str) -> bool:
        with self.entered():
            return _sysctl(name).exists()

    def set_sysctls(self, values: Mapping[str, int]) -> None:
        """Sets sysctls by name, such as ``net.ipv4.ip_forward``. LabError if one does not exist or the value is
        refused.
        """
        with self.entered():
            for name, value in values.items():
                try:
                    _sysctl(name).write_text(str(value))
                except OSError as error:
                    raise LabError(f"sysctl {name}={value}: {error.strerror}") from error


def _sysctl(name: str) -> Path:
    return Path(f"/proc/sys/{name.replace('.', '/')}")


def _call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise LabError(f"{name}: {os.strerror(number)}")
