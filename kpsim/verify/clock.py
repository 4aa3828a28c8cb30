"""The clock that comparisons with Linux read: timers of Linux run in real time."""

import time

from kpsim.units import SECOND_NS


class Clock:
    """This machine's monotonic clock: it never goes back, and its zero means nothing."""

    def now_ns(self) -> int:
        """The present moment, in nanoseconds."""
        return time.monotonic_ns()  # noqa: TID251 - Linux lives in real time

    def now_s(self) -> float:
        """The present moment, in seconds."""
        return time.monotonic()  # noqa: TID251 - Linux lives in real time

    def wait(self, duration_ns: int) -> None:
        """Returns after ``duration_ns`` nanoseconds."""
        time.sleep(duration_ns / SECOND_NS)
