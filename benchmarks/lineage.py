"""The accuracy of modelkin's inference on zoos with a known tree: every bar, and every error.

    python benchmarks/lineage.py ZOO [ZOO ...] [--no-dates] [--json FILE] [--device cpu] [--seed N]

A zoo is a folder of `org/name` repositories with a `truth.json` (`zoo_scoring`). The models are
copied under random names without their cards first (`peer_methods.blinding`); errors are printed
under the true names. The dated run is served as a Hub, the undated one reads the folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peer_methods.blinding import blind
from peer_methods.loading import weight_digests
from peer_methods.modelkin_peer import Modelkin
from peer_methods.protocol import PeerResult
from zoo_figures import (
    Details,
    Reliability,
    by_class,
    components,
    details,
    direction_statements,
    edge_statements,
    f1_interval,
    kin_figures,
    reliability,
)
from zoo_scoring import Claim, Edge, Ratio, Score, Truth, pool, score, settle_twins

from modelkin.lineage.statistics import Interval, clopper_pearson


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooRun:
    """One zoo under its true names: what was said, and what is so.

    `settled` is scored with a copy or cast of the parent as good as it (`settle_twins`).
    """

    zoo: str
    dated: bool
    truth: Truth
    claims: tuple[Claim, ...]
    score: Score
    settled: Score
    result: PeerResult


def main() -> None:
    """Run, print, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zoos", type=Path, nargs="+", metavar="ZOO")
    parser.add_argument("--no-dates", action="store_true", help="leave the dated run out")
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--seed", type=int, default=0, help="draws names and order")
    asked = parser.parse_args()
    peer = Modelkin(device=asked.device)
    written = []
    for dated in (False,) if asked.no_dates else (True, False):
        runs = [run_zoo(zoo, peer, dated=dated, seed=asked.seed) for zoo in asked.zoos]
        print(f"\n## {'With' if dated else 'Without'} dates\n")
        for line in report(runs):
            print(line)
        written += [as_json(run) for run in runs]
    if asked.json:
        asked.json.write_text(json.dumps(written, indent=1))


def run_zoo(zoo: Path, peer: Modelkin, *, dated: bool, seed: int = 0) -> ZooRun:
    """Blind a zoo, infer, and put the true names back."""
    with tempfile.TemporaryDirectory() as folder:
        hidden = blind(zoo, Path(folder), seed=seed)
        result = peer.edges(hidden.models, hidden.dates if dated else None)
        digests = weight_digests(hidden.models)
    back = {new: old for old, new in hidden.names.items()}
    truth = hidden.truth.renamed(back)
    twins = {back[name]: digest for name, digest in digests.items()}
    claims = tuple(with_names(claim, back) for claim in result.claims)
    return ZooRun(
        zoo=zoo.name,
        dated=dated,
        truth=truth,
        claims=claims,
        score=score(claims, truth),
        settled=score(settle_twins(claims, truth, twins), truth),
        result=result,
    )


def with_names(claim: Claim, names: Mapping[str, str]) -> Claim:
    """The claim under other names; made-up nodes keep theirs."""
    told = {name: getattr(claim, name) for name in Claim.__slots__}
    told["child"] = names.get(claim.child, claim.child)
    told["parent"] = names.get(claim.parent, claim.parent)
    return Claim(**told)


def report(runs: Sequence[ZooRun]) -> Iterator[str]:
    """All tables of one kind of run."""
    yield from headline(runs)
    yield from class_table(runs)
    yield from detail_table(runs)
    yield from reliability_table("confidence of an edge", edge_said(runs))
    yield from reliability_table("confidence of a direction", direction_said(runs))
    yield from error_list(runs)


def headline(runs: Sequence[ZooRun]) -> Iterator[str]:
    """One line a zoo, and all of them pooled."""
    yield (
        "| zoo | models (unread) | F1 [95 %] | copies, casts as one | precision | recall |"
        " undirected | reversed | cross-family | roots left alone | relation | merges exact |"
        " false kin [95 %] | KB a model | seconds |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for run in runs:
        yield headline_row(run.zoo, [run])
    if len(runs) > 1:
        yield headline_row("all", runs)


def headline_row(name: str, runs: Sequence[ZooRun]) -> str:
    """The figures of some zoos as one."""
    total = pool([run.score for run in runs])
    pairs = [kin_figures(components(run.claims, run.truth), run.truth)[1] for run in runs]
    false = added(pairs)
    limit = clopper_pearson(false.right, false.of)
    models = sum(len(run.truth.shown) for run in runs)
    f1 = f1_interval(total)
    cells = [
        name,
        f"{models} ({sum(len(run.result.unread) for run in runs)})",
        f"{f1.value:.3f} [{f1.low:.3f}, {f1.high:.3f}]",
        f"{pool([run.settled for run in runs]).f1:.3f}",
        exact(total.precision),
        exact(total.recall),
        f"{total.undirected.value:.3f} ({total.undirected})",
        str(total.reversed),
        str(total.cross_family),
        str(total.roots),
        f"{total.relation.value:.3f} ({total.relation})",
        str(total.merges),
        f"{false} [≤ {100 * limit.high:.2f} %]",
        f"{sum(run.result.bytes_read for run in runs) / models / 1e3:.0f}",
        f"{sum(run.result.seconds for run in runs):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def class_table(runs: Sequence[ZooRun]) -> Iterator[str]:
    """Recall and precision by class of the child, zoos pooled."""
    yield "\n| class of the child | recall [95 %] | precision of what was claimed |"
    yield "|---|---|---|"
    rows = [row for run in runs for row in by_class(run.claims, run.truth)]
    for kind in sorted({row.kind for row in rows}):
        mine = [row for row in rows if row.kind == kind]
        recall, precision = added(r.recall for r in mine), added(r.precision for r in mine)
        yield f"| {kind} | {exact(recall)} | {exact(precision)} |"


def detail_table(runs: Sequence[ZooRun]) -> Iterator[str]:
    """Ranks, bits, shares, hidden models; zoos pooled."""
    found = [details(run.claims, run.truth) for run in runs]
    rows = {
        "rank of a merged adapter, within a factor of two": exact(added(d.ranks for d in found)),
        "bits of a quantized child": exact(added(d.bits for d in found)),
        "share of a merge, told at all": exact(added(d.shares for d in found)),
        "mean absolute error of a share": mean_error(found),
        "unpublished models, with exactly their children": exact(added(d.hidden for d in found)),
        "unpublished models that there are not": str(sum(d.false_hidden for d in found)),
    }
    yield "\n| of right edges | told |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in rows.items())


def mean_error(found: Sequence[Details]) -> str:
    """Error of all shares told, weighted by their number."""
    told = [(d.share_error, d.shares.right) for d in found if d.share_error is not None]
    count = sum(n for _, n in told)
    return f"{sum(e * n for e, n in told) / count:.4f}" if count else "-"


def edge_said(runs: Sequence[ZooRun]) -> Reliability:
    """Confidence of edges against the truth."""
    return reliability([s for run in runs for s in edge_statements(run.claims, run.truth)])


def direction_said(runs: Sequence[ZooRun]) -> Reliability:
    """Confidence of directions of right pairs against the truth."""
    return reliability([s for run in runs for s in direction_statements(run.claims, run.truth)])


def reliability_table(name: str, told: Reliability) -> Iterator[str]:
    """Stated against true, by tenths."""
    yield f"\n| {name} | mean stated | came true [95 %] |"
    yield "|---|---|---|"
    for one in told.bins:
        yield f"| {one.low:.1f} to {one.high:.1f} | {one.mean:.3f} | {exact(one.right)} |"
    yield f"\nExpected calibration error of the {name}: {told.error:.3f}."


def error_list(runs: Sequence[ZooRun]) -> Iterator[str]:
    """Wrong and missed edges, by class."""
    for title, pick in (("Wrong", "wrong"), ("Missed", "missed")):
        lines = sorted(line for run in runs for line in error_lines(run, getattr(run.score, pick)))
        yield f"\n{title} edges: {len(lines)}\n"
        yield from lines


def error_lines(run: ZooRun, edges: Sequence[Edge]) -> Iterator[str]:
    """One line an edge, class first."""
    for child, parent in edges:
        true = ", ".join(sorted(run.truth.parents(child))) or "no parent"
        kind = run.truth.models[child].kind
        yield f"- {kind}: {run.zoo}: {child} -> {parent} (true: {true})"


def added(ratios: Iterable[Ratio]) -> Ratio:
    """Counts of several zoos together."""
    listed = list(ratios)
    return Ratio(right=sum(r.right for r in listed), of=sum(r.of for r in listed))


def exact(ratio: Ratio) -> str:
    """A proportion with its exact interval; nothing of nothing is a dash."""
    if not ratio.of:
        return "-"
    limits: Interval = clopper_pearson(ratio.right, ratio.of)
    return f"{limits.value:.3f} ({ratio}) [{limits.low:.3f}, {limits.high:.3f}]"


def as_json(run: ZooRun) -> dict[str, Any]:
    """Plain figures and errors of one zoo."""
    one, interval = run.score, f1_interval(run.score)
    finer = asdict(details(run.claims, run.truth))
    return {
        "zoo": run.zoo,
        "dated": run.dated,
        "models": len(run.truth.shown),
        "f1": [interval.value, interval.low, interval.high],
        "f1_copies_as_one": run.settled.f1,
        "unread": len(run.result.unread),
        "precision": asdict(one.precision),
        "recall": asdict(one.recall),
        "undirected": asdict(one.undirected),
        "reversed": one.reversed,
        "cross_family": one.cross_family,
        "roots": asdict(one.roots),
        "relation": asdict(one.relation),
        "merges": asdict(one.merges),
        "classes": [asdict(row) for row in by_class(run.claims, run.truth)],
        "details": finer,
        "edge_calibration_error": edge_said([run]).error,
        "direction_calibration_error": direction_said([run]).error,
        "wrong": list(one.wrong),
        "missed": list(one.missed),
        "bytes": run.result.bytes_read,
        "seconds": round(run.result.seconds, 2),
    }


if __name__ == "__main__":
    main()
