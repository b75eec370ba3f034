"""The Ray engine (extra `ray`): batches as core tasks, requests leased from one actor."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ...lineage.errors import ModelkinError
from ..fetching import Batch, Fetched, fetch_batch
from .base import SourceSpec

RETRIES = 3
PATIENCE = 1.0
"""Seconds between two looks at whether the run was asked to stop."""


class OnRay:
    """Fetches batches on a Ray cluster, or on one that it starts on this machine.

    Parameters
    ----------
    spec : how a worker opens the source.
    address : a cluster's; None starts one here.
    flying : batches in flight.
    max_requests : what all batches together may ask for, leased in hundreds.
    stopped : asked while batches are in flight; these are then left for the next run.

    Raises
    ------
    ModelkinError : the extra `ray` is not installed.
    """

    def __init__(
        self,
        spec: SourceSpec,
        *,
        address: str | None = None,
        flying: int = 4,
        cpus: int | None = None,
        max_requests: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ModelkinError("--engine ray needs `pip install modelkin[ray]`") from None
        self._ray: Any = ray
        self._spec, self._flying, self._stopped = spec, flying, stopped
        self._own = not ray.is_initialized()
        if self._own:
            ray.init(
                address=address,
                num_cpus=None if address else cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        self._task = ray.remote(max_retries=RETRIES)(_work)
        self._leases = ray.remote(num_cpus=0)(Leases).remote(max_requests)

    def run(self, batches: Iterable[Batch]) -> Iterator[Fetched]:
        """Fetch batches; results in their order. When asked to stop, what is in flight is left."""
        rest = iter(batches)
        flying: deque[Any] = deque()
        while True:
            while len(flying) < self._flying and not self._stopped():
                batch = next(rest, None)
                if batch is None:
                    break
                flying.append(self._task.remote(batch, self._spec, self._leases))
            if not flying:
                return
            while not self._ray.wait([flying[0]], timeout=PATIENCE)[0]:
                if self._stopped():
                    for task in flying:
                        self._ray.cancel(task, force=True)
                    return
            yield self._got(flying.popleft())

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._own:
            self._ray.shutdown()

    def _got(self, task: Any) -> Fetched:
        """A task's result; an error of this software as it was raised."""
        try:
            fetched: Fetched = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ModelkinError):
                raise error.cause from None
            raise
        return fetched


class Leases:
    """Requests left for all workers: the actor that leases them, in hundreds."""

    def __init__(self, total: int | None) -> None:
        self._left = total

    def take(self, wanted: int) -> int:
        """As many of the wanted requests as are left."""
        if self._left is None:
            return wanted
        given = min(wanted, self._left)
        self._left -= given
        return given

    def give_back(self, unused: int) -> None:
        """Return what was leased and not needed."""
        if self._left is not None:
            self._left += unused


def _work(batch: Batch, spec: SourceSpec, leases: Any) -> Fetched:
    import ray

    leased = 0

    def lease(wanted: int) -> int:
        nonlocal leased
        given = int(ray.get(leases.take.remote(wanted)))
        leased += given
        return given

    fetched = asyncio.run(_fetch(batch, spec, lease=lease))
    leases.give_back.remote(max(0, leased - fetched.traffic.requests))
    return fetched


async def _fetch(
    batch: Batch, spec: SourceSpec, *, lease: Callable[[int], int] | None = None
) -> Fetched:
    source = spec.open()
    try:
        return await fetch_batch(batch, source=source, lease=lease)
    finally:
        await source.close()
