"""How many threads arithmetic may use: one where the work is too small to share."""

from __future__ import annotations

from contextlib import AbstractContextManager

SMALL_BUCKET = 200
SMALL_MODEL = 20_000_000


def one_thread_if(small: bool) -> AbstractContextManager[object]:
    """In the block, one thread for BLAS and OpenMP when the work is small.

    On small matrices threads wait for each other more than they work, and on a machine that does
    other things as well they wait for a core: measured on the demo, 3 minutes against 20 seconds.
    """
    from threadpoolctl import threadpool_limits

    limited: AbstractContextManager[object] = threadpool_limits(limits=1 if small else None)
    return limited
