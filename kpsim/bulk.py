"""Builds very many small values at once, without Python's cycle collector looking at all of them again and again.

The values are trees without cycles, so reference counts free them. With 50,000 endpoints the collector would triple the
time of a sync, and each of its full rounds afterwards would cost half a second.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: a block that leaves more new objects than this behind was a bulk build
BULK = 20_000


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Turns the collector off inside the block: a run's values are millions, and it would scan all of them again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def without_collector() -> Iterator[None]:
    """Turns the collector off inside the block. Afterwards it ignores the objects of a bulk build."""
    was_on = gc.isenabled()
    with collector_at_rest():
        try:
            yield
        finally:
            if was_on and gc.get_count()[0] > BULK:
                gc.freeze()
