"""Network namespaces without names. They last as long as this process holds them, so a crash leaves nothing behind.

Counterpart: ``ip netns``, which keeps namespaces by mounting them. The namespace of the caller is never changed.
"""

import ctypes
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kpsim.errors import InputError, KpsimError

_CLONE_NEWNET = 0x40000000
_HERE = "/proc/thread-self/ns/net"
_TOOL_TIMEOUT_S = 120
_MOST_BYTES = 512 << 20  #: that a command may print
_MOST_SAID = 4000
_PR_SET_PDEATHSIG = 1


class LabError(KpsimError):
    """Linux did not do what the lab needs, so nothing was measured."""


class BrokenTool(InputError):
    """A command is not the tool that its name says."""


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
        """Runs a command in the namespace and returns its output. LabError with the command's complaint if it fails.

        BrokenTool if it does not end, prints without end, or prints what is no text.
        """
        with self.entered():
            code, out, complaint = finished(command, stdin.encode("utf-8", "surrogateescape"))
        if code < 0:  # iptables-nft crashes if it is given rules by the hundred thousand
            raise LabError(f"{' '.join(command)}: crashed ({signal.Signals(-code).name})")
        if code:
            said = complaint[:_MOST_SAID].decode("utf-8", "replace").strip()
            raise LabError(f"{' '.join(command)}: {said or f'exit code {code}'}")
        try:
            return out.decode()
        except UnicodeDecodeError:
            raise BrokenTool(f"{' '.join(command)} prints what is no text: is it what its name says?") from None

    def complaint(self, command: Sequence[str], stdin: str = "") -> str | None:
        """The first line of what a command complains of; None if it succeeds."""
        try:
            self.run(command, stdin=stdin)
        except LabError as error:
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


def finished(command: Sequence[str], stdin: bytes, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
    """Runs a command to its end. Returns its exit code, or the signal that ended it as a negative number, and its output.

    The command ends with this process, however that ends, and with the waiting for it. LabError if it cannot be
    started. BrokenTool if it takes too long, or prints too much.
    """
    seconds = _TOOL_TIMEOUT_S if timeout_s is None else timeout_s
    with _in_memory(stdin) as given, _in_memory() as out, _in_memory() as complaint:
        try:
            running = subprocess.Popen(
                command,
                stdin=given,
                stdout=out,
                stderr=complaint,
                process_group=0,
                preexec_fn=_end_with_parent(os.getpid()),  # noqa: PLW1509 - one thread, and it calls no library
            )
        except OSError as error:
            raise LabError(f"{command[0]}: {error.strerror}") from None
        try:
            code = running.wait(seconds)
        except subprocess.TimeoutExpired:
            raise BrokenTool(f"{' '.join(command)} did not end within {seconds:g} s") from None
        finally:
            with suppress(ProcessLookupError):  # also what the command has started
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        if code == -signal.SIGXFSZ or os.fstat(out.fileno()).st_size >= _MOST_BYTES:
            raise BrokenTool(f"{' '.join(command)} prints without end")
        return code, _content(out), _content(complaint)


def _in_memory(content: bytes = b"") -> BinaryIO:
    """A file without a name. A pipe would block a command that prints while it is still given input."""
    file = os.fdopen(os.memfd_create("kpsim"), "w+b")
    file.write(content)
    file.seek(0)
    return file


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(_MOST_BYTES)


def _end_with_parent(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before it could say so
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_BYTES, _MOST_BYTES))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    return in_child
