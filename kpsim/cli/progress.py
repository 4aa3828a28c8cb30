"""Shows a progress bar on stderr during long work, on a terminal only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kpsim.cli.printing import console
from kpsim.simulation import Progress
from kpsim.units import SECOND_NS


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Yield a function that a run calls with the time reached and the whole time, or None if there is no terminal."""
    terminal = console(stderr=True)
    if terminal is None:
        yield None
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("simulated"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} s"))
    with Bar(*columns, TimeRemainingColumn(), console=terminal, transient=True) as bar:
        task = bar.add_task("run", total=1)

        def show(now_ns: int, total_ns: int) -> None:
            bar.update(task, completed=now_ns / SECOND_NS, total=total_ns / SECOND_NS)

        yield show


@contextmanager
def count_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function that work calls with how much of it is done and how much there is, or None without a terminal."""
    terminal = console(stderr=True)
    if terminal is None:
        yield None
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Bar(*columns, TimeRemainingColumn(), console=terminal, transient=True) as bar:
        task = bar.add_task("work", total=1)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
