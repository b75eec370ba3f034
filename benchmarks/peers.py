"""Run modelkin and its peers on the same files, side by side, and print tables.

    python benchmarks/peers.py ZOO [ZOO ...] [--peers modelkin,modeldna,...] [--no-dates]
        [--json FILE] [--seed N]

A zoo is a folder of `org/name` repositories with a `truth.json` (`zoo_scoring`). Everyone gets the
same copies under random names, in random order, without cards (`peer_methods.blinding`), once with
creation times and once without; `--no-dates` leaves the first out. Of a method with several
settings the one with the highest F1 on the zoo at hand is reported, which is kind to it.

The models of a zoo are so small that every method reads all or most of them: the column of bytes
shows that nobody reads more than the rest, not what a model of billions of weights costs
(`sketch_budget.py`).

`modeldna` has to be installed for its row (`pip install modelkin[peers]`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer_methods.blinding import BlindZoo, blind
from peer_methods.csu import Csu
from peer_methods.modeldna_peer import ModelDna, is_installed
from peer_methods.modelkin_peer import Modelkin
from peer_methods.mother import Mother
from peer_methods.nearest import Nearest
from peer_methods.protocol import Peer, PeerResult
from peer_methods.tensorlock import TensorLock
from zoo_figures import components, f1_interval, f1_margin, kin_figures
from zoo_scoring import Ratio, Score, Truth, pool, score

from modelkin.lineage.statistics import Interval, clopper_pearson

HOME = "modelkin"
PARENTLESS = frozenset({"csu"})


def mother_settings(truth: Truth) -> list[Peer]:
    """Both distances and both signs, with the true number of families of any set of models."""

    def families(names: Sequence[str]) -> int:
        return len({truth.family(name) for name in names})

    return [
        Mother(families=families, falling=falling, distance=distance)
        for distance in ("l2", "max")
        for falling in (True, False)
    ]


PEERS: Mapping[str, Callable[[Truth], list[Peer]]] = {
    HOME: lambda _: [Modelkin()],
    "modeldna": lambda _: [ModelDna()],
    "mother": mother_settings,
    "tensorlock": lambda _: [TensorLock()],
    "mst": lambda _: [Nearest(rule="mst")],
    "nearest": lambda _: [Nearest(rule="nearest")],
    "cosine": lambda _: [Nearest(rule="cosine")],
    "csu": lambda _: [Csu()],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One method on one zoo; `score` is None for a method that names no parents."""

    peer: str
    label: str
    zoo: str
    dated: bool
    models: int
    score: Score | None
    kin: Ratio
    strangers: Ratio
    bytes_read: int
    seconds: float
    unread: int


def main() -> None:
    """Run, print tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoos", type=Path, nargs="+", metavar="ZOO")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, in this order")
    parser.add_argument("--no-dates", action="store_true", help="leave the dated run out")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--seed", type=int, default=0, help="draws names and order")
    asked = parser.parse_args()
    named = chosen(asked.peers.split(","))
    runs = []
    for zoo in asked.zoos:
        with tempfile.TemporaryDirectory() as folder:
            hidden = blind(zoo, Path(folder), seed=asked.seed)
            for dated in (False,) if asked.no_dates else (True, False):
                # What names no parents has no use for dates.
                some = [peer for peer in named if not (dated and peer in PARENTLESS)]
                runs += [best_run(peer, hidden, zoo=zoo.name, dated=dated) for peer in some]
    for line in tables(runs):
        print(line)
    if asked.json:
        asked.json.write_text(json.dumps([as_json(run) for run in runs], indent=1))


def chosen(names: Sequence[str]) -> list[str]:
    """The peers that can run here; says so, loudly, where one cannot.

    Raises
    ------
    SystemExit : no such peer.
    """
    if unknown := sorted(set(names) - set(PEERS)):
        raise SystemExit(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    if "modeldna" in names and not is_installed():
        print(
            "\n!!! modeldna IS NOT INSTALLED: ITS ROWS ARE MISSING "
            "(pip install modelkin[peers]) !!!\n",
            file=sys.stderr,
        )
        return [name for name in names if name != "modeldna"]
    return list(names)


def best_run(peer: str, zoo_files: BlindZoo, *, zoo: str, dated: bool) -> Run:
    """Run all settings of a peer; the one with the highest F1."""
    runs = []
    for setting in PEERS[peer](zoo_files.truth):
        result = setting.edges(zoo_files.models, zoo_files.dates if dated else None)
        runs.append(as_run(peer, setting.label, result, zoo_files, zoo=zoo, dated=dated))
        told = "" if runs[-1].score is None else f", F1 {runs[-1].score.f1:.3f}"
        print(
            f"{zoo}, {'dated' if dated else 'undated'}, {setting.label}: "
            f"{result.seconds:.1f} s{told}",
            file=sys.stderr,
            flush=True,
        )
    return max(runs, key=lambda run: -1.0 if run.score is None else run.score.f1)


def as_run(
    peer: str, label: str, result: PeerResult, zoo_files: BlindZoo, *, zoo: str, dated: bool
) -> Run:
    """Score one answer. What a method calls kin is told, or what its edges connect."""
    truth = zoo_files.truth
    related = result.related
    kin, strangers = kin_figures(
        components(result.claims, truth) if related is None else related, truth
    )
    return Run(
        peer=peer,
        label=label,
        zoo=zoo,
        dated=dated,
        models=len(zoo_files.models),
        score=None if peer in PARENTLESS else score(result.claims, truth),
        kin=kin,
        strangers=strangers,
        bytes_read=result.bytes_read,
        seconds=result.seconds,
        unread=len(result.unread),
    )


def tables(runs: Sequence[Run]) -> Iterator[str]:
    """Markdown: edges, margins and kin pairs, over all zoos; then F1 zoo by zoo."""
    for dated in sorted({run.dated for run in runs}, reverse=True):
        part = [run for run in runs if run.dated == dated]
        zoos = list(dict.fromkeys(run.zoo for run in part))
        yield f"\n### {'With' if dated else 'Without'} dates: {', '.join(zoos)}\n"
        yield from edge_table(part)
        if len(zoos) > 1:
            yield from zoo_table(part, zoos)
    yield "\n### Kin or not\n"
    yield from kin_table([run for run in runs if run.dated == runs[-1].dated])


def edge_table(runs: Sequence[Run]) -> Iterator[str]:
    """One line a method, zoos pooled, with the margin of modelkin over it."""
    home = [run.score for run in runs if run.peer == HOME and run.score is not None]
    yield (
        "| method | F1 [95 %] | precision | recall | undirected | reversed | cross-family |"
        " roots left alone | merges exact | modelkin minus it [95 %] | KB a model | seconds |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for mine in by_peer(runs):
        scores = [run.score for run in mine if run.score is not None]
        if not scores:
            continue
        total = pool(scores)
        margin = "-"
        if home and mine[0].peer != HOME:
            margin = signed(f1_margin(pool(home), total))
        models = sum(run.models for run in mine)
        cells = [
            mine[0].label if len({run.label for run in mine}) == 1 else f"{mine[0].peer}, best",
            ranged(f1_interval(total)),
            share(total.precision),
            share(total.recall),
            share(total.undirected),
            str(total.reversed),
            str(total.cross_family),
            str(total.roots),
            str(total.merges),
            margin,
            f"{sum(run.bytes_read for run in mine) / models / 1e3:.0f}",
            f"{sum(run.seconds for run in mine):.1f}",
        ]
        yield f"| {' | '.join(cells)} |"


def zoo_table(runs: Sequence[Run], zoos: Sequence[str]) -> Iterator[str]:
    """F1 of every method on every zoo, with the setting where there are several."""
    yield f"\n| F1 | {' | '.join(zoos)} |"
    yield "|---" * (len(zoos) + 1) + "|"
    for mine in by_peer(runs):
        if any(run.score is None for run in mine):
            continue
        several = len({run.label for run in mine}) > 1
        cells = [
            f"{run.score.f1:.3f}{f' ({run.label})' if several else ''}"
            for run in mine
            if run.score is not None
        ]
        yield f"| {mine[0].peer if several else mine[0].label} | {' | '.join(cells)} |"


def kin_table(runs: Sequence[Run]) -> Iterator[str]:
    """Pairs called kin, of one family and of two; zoos pooled."""
    yield "| method | same-family pairs called kin | pairs of two families called kin [95 %] |"
    yield "|---|---|---|"
    for mine in by_peer(runs):
        kin = Ratio(right=sum(r.kin.right for r in mine), of=sum(r.kin.of for r in mine))
        false = Ratio(
            right=sum(r.strangers.right for r in mine), of=sum(r.strangers.of for r in mine)
        )
        limit = clopper_pearson(false.right, false.of)
        yield (
            f"| {mine[0].peer} | {share(kin)} |"
            f" {false} [{100 * limit.low:.2f} %, {100 * limit.high:.2f} %] |"
        )


def by_peer(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs of each method, in the order of first appearance."""
    for peer in dict.fromkeys(run.peer for run in runs):
        yield [run for run in runs if run.peer == peer]


def share(ratio: Ratio) -> str:
    """0.912 (52/57)."""
    return f"{ratio.value:.3f} ({ratio})"


def ranged(interval: Interval) -> str:
    """0.912 [0.851, 0.960]."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def signed(interval: Interval) -> str:
    """+0.212 [+0.151, +0.260]."""
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def as_json(run: Run) -> dict[str, Any]:
    """Plain figures of a run."""
    told: dict[str, Any] = {
        "peer": run.peer,
        "setting": run.label,
        "zoo": run.zoo,
        "dated": run.dated,
        "models": run.models,
        "unread": run.unread,
        "bytes": run.bytes_read,
        "seconds": round(run.seconds, 2),
        "kin": str(run.kin),
        "strangers": str(run.strangers),
    }
    if run.score is not None:
        interval = f1_interval(run.score)
        told |= {
            "f1": run.score.f1,
            "f1_low": interval.low,
            "f1_high": interval.high,
            "precision": str(run.score.precision),
            "recall": str(run.score.recall),
            "undirected": str(run.score.undirected),
            "reversed": run.score.reversed,
            "cross_family": run.score.cross_family,
            "relation": str(run.score.relation),
            "merges": str(run.score.merges),
            "roots": str(run.score.roots),
        }
    return told


if __name__ == "__main__":
    main()
