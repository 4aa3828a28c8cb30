"""Takes the time of the tools of this machine, apart from what they wait because something else runs.

Counterpart: ``time`` and ``/proc/PID/schedstat``, where the kernel counts how long a process waited for a processor.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kpsim.lab.calls import TIME_LIMIT_S, LabError, ToolFailed
from kpsim.lab.namespace import Namespace


class Timing(NamedTuple):
    """How long a call took, in nanoseconds."""

    wall_ns: int
    processor_ns: int  #: on a processor, the kernel's work for it included
    queued_ns: int  #: ready to run while something else did; 0 if the kernel does not say

    @property
    def own_ns(self) -> int:
        """The time that it takes on a machine that is idle otherwise."""
        return max(self.wall_ns - self.queued_ns, self.processor_ns)

    def __add__(self, other: object) -> "Timing":
        if not isinstance(other, Timing):
            return NotImplemented
        return Timing(*(a + b for a, b in zip(self, other, strict=True)))


NO_TIME = Timing(0, 0, 0)


def timed(namespace: Namespace, command: Sequence[str], stdin: str = "", *, limit_s: float = TIME_LIMIT_S) -> Timing:
    """Run a command in a namespace and return its time. ToolFailed if it fails; LabError if it does not run or end."""
    if shutil.which(command[0]) is None:
        raise LabError(f"{command[0]}: not found in PATH: nothing can be measured with it")
    with contextlib.ExitStack() as stack:
        given, printed, complained = (
            stack.enter_context(os.fdopen(os.memfd_create("kpsim", os.MFD_CLOEXEC), "w+b")) for _ in range(3)
        )
        given.write(stdin.encode())
        given.flush()
        given.seek(0)
        with namespace.entered():
            begun_ns = time.perf_counter_ns()
            process = subprocess.Popen(command, stdin=given, stdout=printed, stderr=complained, start_new_session=True)
        # a thread of its own would be a second process that wants a processor
        ended = stack.enter_context(_pidfd(process.pid))
        try:
            came = ended.wait(limit_s)
        except BaseException:
            _kill(process)
            raise
        wall_ns = time.perf_counter_ns() - begun_ns
        if not came:
            _kill(process)
            raise LabError(f"{' '.join(command)}: did not end within {limit_s:.0f} s: nothing can be measured with it")
        processor_ns, queued_ns = _scheduled(process.pid)
        code = process.wait()
        if code:
            complained.seek(0)
            said = complained.read(2000).decode(errors="replace").strip().replace("\n", " ")
            raise ToolFailed(f"{' '.join(command)}: {said or f'exit code {code}'}")
    return Timing(wall_ns, processor_ns, queued_ns)


class _pidfd:
    """A process that can be waited for without being reaped."""

    def __init__(self, process: int) -> None:
        self._fd = os.pidfd_open(process)

    def __enter__(self) -> "_pidfd":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def wait(self, limit_s: float) -> bool:
        """Return whether the process ended in time."""
        import select

        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(limit_s * 1000))


def _scheduled(process: int) -> tuple[int, int]:
    """Return the time of a process that ended and is not reaped: on a processor, and waiting for one."""
    try:
        on_processor, queued, *_ = Path(f"/proc/{process}/schedstat").read_text().split()
    except (OSError, ValueError):
        return 0, 0
    return int(on_processor), int(queued)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
