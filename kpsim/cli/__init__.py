"""The command line. Each command imports what it needs when it runs, so that ``--help`` and short commands start fast.

Exit codes: 0 holds; 1 an expectation or check failed; 2 bad input or usage; 3 internal error; 130 interrupted.
"""

import sys

TYPE_CHECKING = False  # typing and signal take a moment to import, in which an interrupt would find nobody
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

    from kpsim.cli.application import app, print_problems

__all__ = ["app", "main", "print_problems"]

_INTERRUPTED = 130  #: what shells say of a command that SIGINT ended


def __getattr__(name: str) -> "Any":
    """Import typer and the application only when asked: an interrupt that comes during that finds ``main`` waiting."""
    if name in ("app", "print_problems"):
        from kpsim.cli import application

        return getattr(application, name)
    raise AttributeError(f"module 'kpsim.cli' has no attribute {name!r}")


class _Interrupts:
    """Raises KeyboardInterrupt at SIGINT, and remembers it: a library may take it for an error of its own."""

    came = False
    _taken = False

    def begin(self) -> None:
        import signal

        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return
        try:
            signal.signal(signal.SIGINT, self._handle)
        except ValueError:
            return  # not the main thread, which alone gets signals
        self._taken = True

    def _handle(self, _number: int, _frame: "FrameType | None") -> "NoReturn":
        self.came = True
        raise KeyboardInterrupt

    def end(self) -> None:
        """From now on nothing is left to interrupt: SIGINT ends neither the last words nor the interpreter's own end."""
        if not self._taken:
            return
        import atexit
        import signal

        if self.came:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def main() -> "NoReturn":
    """Entry point: run a command, and turn errors into messages and exit codes."""
    streams = sys.stdout, sys.stderr
    code = _INTERRUPTED
    interrupts = _Interrupts()
    try:
        interrupts.begin()
        code = _run()
    except KeyboardInterrupt:
        interrupts.came = True
    finally:
        interrupts.end()
        sys.stdout, sys.stderr = streams
    if interrupts.came:
        code = _INTERRUPTED
        _last_words("interrupted")
    sys.exit(code)


#: objects made before the cycle collector looks for cycles. At Python's 700 it goes through all modules again and again
#: while they are imported, which takes a tenth of a short command
_COLLECT_AFTER = 50_000


def _run() -> int:
    import gc

    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
    from kpsim.cli.printing import guarded

    sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr, quiet=True)
    from kpsim.cli.application import run_command

    return run_command()


def _last_words(text: str) -> None:
    for stream, words in ((sys.stdout, ""), (sys.stderr, f"{text}\n")):
        try:
            if stream is not None:
                stream.write(words)
                stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads it
