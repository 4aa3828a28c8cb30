"""Building very many small values at once, without Python's cycle collector looking at all of them again and again.

The values are trees without cycles: reference counts free them. With 50,000 endpoints the collector would triple the time of a
sync, and every later one of its full rounds would cost half a second.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: a block that leaves more new objects than this behind was a bulk build
BULK = 20_000


@contextmanager
def without_collector() -> Iterator[None]:
    """The collector rests inside the block, and later passes over what a bulk build has made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if gc.get_count()[0] > BULK:
                gc.freeze()
            gc.enable()
