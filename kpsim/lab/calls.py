"""Calls the tools of this machine. A call has an end: in time, in what it may print, and with kpsim itself.

Counterpart: ``iptables-restore``, ``ip``, ``bridge`` as child processes. A tool that hangs, or prints without end or
nonsense, must not be taken for a measurement.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import BinaryIO

from kpsim.errors import KpsimError

#: seconds after which a tool is ended
TIME_LIMIT_S = 120
#: bytes that a tool may print; the rules of a hundred thousand endpoints take a tenth of it
_MOST_OUTPUT = 1 << 29
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class LabError(KpsimError):
    """Linux did not do what the lab needs, so nothing was measured."""


class ToolFailed(LabError):
    """A tool ended with an error of its own."""


def call(command: Sequence[str], stdin: str = "") -> str:
    """Runs a command and returns what it prints.

    ToolFailed, with the command's complaint, if it fails; LabError if it cannot be run, does not end, or prints no text.
    The command dies with this process, however that ends. If it does not end in time, all that it began is ended.
    """
    words = " ".join(command)
    with _memory(stdin) as given, _memory() as printed, _memory() as complained:
        try:
            process = subprocess.Popen(
                command, stdin=given, stdout=printed, stderr=complained, start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - nothing here has threads, nor locks that matter
            )  # fmt: skip
        except OSError as error:
            raise LabError(f"{words}: {error.strerror}: nothing can be measured without it") from error
        try:
            code = process.wait(TIME_LIMIT_S)
        except BaseException as error:
            _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise LabError(f"{words}: did not end within {TIME_LIMIT_S} s: nothing can be measured with it") from None
        text, complaint = _read(printed), _read(complained)
    if code < 0:  # iptables-nft crashes if it is given rules by the hundred thousand
        raise ToolFailed(f"{words}: crashed ({signal.Signals(-code).name})")
    if code:
        raise ToolFailed(f"{words}: {(complaint or '').strip() or f'exit code {code}'}")
    if text is None:
        raise LabError(f"{words}: printed something that is no text: nothing can be measured with it")
    return text


def _memory(content: str = "") -> BinaryIO:
    """A file in memory. A tool reads and writes it as it likes, so that neither side waits for the other."""
    file = os.fdopen(os.memfd_create("kpsim", os.MFD_CLOEXEC), "w+b")
    file.write(content.encode())
    file.flush()
    file.seek(0)
    return file


def _read(memory: BinaryIO) -> str | None:
    """The text that a tool wrote; None if it is no text."""
    size = os.fstat(memory.fileno()).st_size
    try:
        return os.pread(memory.fileno(), size, 0).decode()
    except UnicodeDecodeError:
        return None


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes the tool."""

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the signal was asked for
            os._exit(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_OUTPUT, _MOST_OUTPUT))

    return prepare


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a command that still runs, and everything that it began."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
