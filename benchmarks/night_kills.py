"""Kill -9 a night 200 times, at events counted inside it, and compare what it publishes at last.

    python -m benchmarks.night_kills --kills 200 [--seed 0]

An event is a request that is about to be sent, a transaction that begins, is about to commit or
has committed, and a file that is about to be synced, renamed or deleted. A night is killed at a
random one of them, begun again, killed again, up to six times, and then left to end. Each ended
night has to have published what an undisturbed one publishes, and may have asked for one page of
the listing more a kill. It is run from the root of the repository.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

DEATHS = 6
"""Kills of one night at most."""


def main() -> None:
    """Kill, compare, and print figures as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    from faulty_hub import FaultyHub
    from small_models import write_family

    with tempfile.TemporaryDirectory() as folder:
        write_family(Path(folder) / "hub")
        with FaultyHub(Path(folder) / "hub") as hub:
            trial = _Trial(folder=Path(folder), hub=hub, chance=random.Random(asked.seed))
            trial.begin()
            while trial.killed < asked.kills:
                trial.one_night(left=asked.kills - trial.killed)
            print(json.dumps(trial.figures()), flush=True)


@dataclass(slots=True, kw_only=True)
class _Trial:
    """Nights against one hub; what an undisturbed one does is what all are held against."""

    folder: Path
    hub: Any
    chance: random.Random
    events: int = 0
    pages: int = 0
    expected: Any = None
    nights: int = 0
    same: int = 0
    killed: int = 0
    repeated: list[int] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """Run one night undisturbed."""
        config = self._config("undisturbed")
        ended = _forked(_night, config, None)
        if ended is None or ended["exit_code"]:
            raise SystemExit(f"the undisturbed night failed: {ended}")
        self.events, self.pages = ended["events"], self._listed()
        self.expected = _forked(_published, config.parent / "store")

    def one_night(self, *, left: int) -> None:
        """Kill a night some times, let it end, compare."""
        self.nights += 1
        config = self._config(f"night-{self.nights}")
        deaths, places = 0, []
        while deaths < min(DEATHS, left):
            at = self.chance.randrange(self.events)
            place = config.parent / "place"
            if _forked(_night, config, at, place) is not None:
                break
            deaths += 1
            places.append(f"{place.read_text()} {at}")
            self.places[place.read_text()] += 1
            if _forked(_is_over, config.parent / "store"):
                break
        # A night that had told everything when it was killed is over: the next would be another.
        over = _forked(_is_over, config.parent / "store")
        ended = {"exit_code": 0} if over else _forked(_night, config, None)
        found = _forked(_published, config.parent / "store")
        told = (config.parent / "store" / "reports" / "1.md").exists()
        whole = told and bool(ended) and ended["exit_code"] == 0 and found == self.expected
        again = self._listed() - self.pages
        self.same += whole
        self.killed += deaths
        self.repeated.append(max(0, again - deaths))
        if not whole or again > deaths:
            tables = found.keys() if found else ()
            differ = [table for table in tables if found[table] != self.expected[table]]
            fault = {"night": self.nights, "ended": ended, "again": again, "reported": told}
            print(json.dumps({**fault, "differ": differ, "at": places}), flush=True)

    def figures(self) -> dict[str, Any]:
        """What all nights came to."""
        return {
            "kills": self.killed,
            "nights": self.nights,
            "same_snapshot": self.same,
            "events_of_a_night": self.events,
            "pages_asked_beyond_one_a_kill": sum(self.repeated),
            "killed_at": dict(self.places.most_common()),
        }

    def _config(self, name: str) -> Path:
        from nights import write_config

        place = self.folder / name
        place.mkdir()
        self.hub.seen.clear()
        return write_config(place, self.hub.url)

    def _listed(self) -> int:
        return sum(seen.path.startswith("/api/models?") for seen in self.hub.seen)


def _forked(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns in a child, None when the child was killed. Imports are paid once.

    Raises
    ------
    RuntimeError : the child ended by itself without an answer: a fault, and no kill.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            there.send(work(*arguments))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    there.close()
    try:
        answer = here.recv()
    except EOFError:
        answer = None
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status != 0:
        raise RuntimeError(f"a night ended with status {status}, and was not killed")
    return answer


def _published(store: Path) -> Any:
    from nights import published

    return published(store)


def _is_over(store: Path) -> bool:
    """Whether the first night has ended."""
    from modelkin.lineage.errors import RegistryError
    from modelkin.store import Registry

    try:
        with Registry.open(store) as registry:
            return bool(registry.ledger().publications())
    except RegistryError:
        return False


def _night(config: Path, kill_at: int | None, place: Path | None = None) -> dict[str, Any]:
    """A night in this process, which ends itself at an event."""
    from nights import run_night

    with _watched(kill_at, place) as events:
        result = run_night(config)
    said = result.stderr[-500:] if result.exit_code else ""
    return {"exit_code": result.exit_code, "events": next(events), "said": said}


@contextmanager
def _watched(kill_at: int | None, place: Path | None) -> Iterator[Iterator[int]]:
    """Count events, and die at one of them without a word."""
    from modelkin.scanners.bytes import Traffic
    from modelkin.store.database import Database

    events = count()
    write = os.write

    def event(what: str) -> None:
        if next(events) == kill_at and place is not None:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            write(descriptor, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    transaction, add = Database.transaction, Traffic.add

    @contextmanager
    def counted(self: Any) -> Iterator[Any]:
        event("transaction begins")
        with transaction(self) as connection:
            yield connection
            event("before a commit")
        event("after a commit")

    def asked(self: Any, *, requests: int = 0, size: int = 0) -> None:
        if requests:
            event("request")
        add(self, requests=requests, size=size)

    Database.transaction = counted  # type: ignore[method-assign,assignment]
    Traffic.add = asked  # type: ignore[method-assign]
    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, _counting(getattr(os, name), lambda name=name: event(name)))
    yield events


def _counting(call: Callable[..., Any], event: Callable[[], None]) -> Callable[..., Any]:
    def counted(*arguments: Any, **more: Any) -> Any:
        event()
        return call(*arguments, **more)

    return counted


if __name__ == "__main__":
    main()
