"""Calls the tools of this machine. A call has an end: in time, in what it may print, and with kpsim itself.

Counterpart: ``iptables-restore``, ``ip``, ``bridge`` as child processes. A tool that hangs, or prints without end or
nonsense, must not be taken for a measurement.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from kpsim.errors import KpsimError

#: seconds after which a tool is ended
TIME_LIMIT_S = 120
#: bytes that a tool may print; the rules of a hundred thousand endpoints take a tenth of it
_MOST_OUTPUT = 1 << 29
#: asks the kernel to end the tool with this process. A function of Python between fork and exec would do that too, but
#: then the whole memory of this process is mapped anew for each call, which takes longer than most tools
_DYING_WITH_US = (shutil.which("setpriv") or "/usr/bin/setpriv", "--pdeathsig", "KILL")


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
    if shutil.which(command[0]) is None:
        raise LabError(f"{words}: No such file or directory: nothing can be measured without it")
    with _memory(stdin) as given, _memory() as printed, _memory() as complained:
        try:
            with _limited_files():
                process = subprocess.Popen(
                    [*_DYING_WITH_US, *command], stdin=given, stdout=printed, stderr=complained, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise LabError(f"{_DYING_WITH_US[0]}: {error.strerror}: nothing can be measured without it") from error
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


@contextlib.contextmanager
def _limited_files() -> Iterator[None]:
    """What begins inside the block cannot write large files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft == resource.RLIM_INFINITY or soft > _MOST_OUTPUT:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_OUTPUT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a command that still runs, and everything that it began."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
