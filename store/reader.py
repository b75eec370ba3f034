"""The reading half of the registry."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import duckdb

from ..lineage.records import ModelInfo, Outcome, Score
from . import one_model, queries, safety
from .behaviour import FOLDER as ACTIVATIONS
from .behaviour import fingerprinted_lines, fingerprints
from .database import Database, translated
from .facts import (
    BelievedEdge,
    Change,
    FindingRow,
    FingerprintRow,
    JudgeDefinition,
    Kin,
    QueryResult,
    ScanState,
    SketchRow,
    Status,
    TreeRow,
    Why,
)
from .gaps import ClaimGap, claim_gaps
from .inference import believed_parents, placed_models
from .names import find_id, name_of
from .sandbox import run_readonly
from .sketches import SketchStore
from .trees import tree
from .visits import last_outcomes, needs_visits, unvisited

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .export import Selection


class RegistryReader:
    """Questions to a store. Names of models may be current, former, or spelled in another case.

    Every method that takes a name raises `NotInRegistry` for one that the store does not hold, with
    the closest names in its message. Times are aware UTC datetimes.

    Parameters
    ----------
    database : the open database; closed with this object.
    path : the store folder.
    """

    def __init__(self, database: Database, *, path: Path) -> None:
        self._database = database
        self._session: duckdb.DuckDBPyConnection | None = None
        self.path = path
        self.sketches = SketchStore(path / "sketches")
        self.activations = SketchStore(path / ACTIVATIONS)

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return self._database.read_only

    @property
    def opened(self) -> Path:
        """The database file in use: the store's own, or a published copy while a scan writes."""
        return self._database.path

    def close(self) -> None:
        """Close the store; committed rows are safe without it."""
        if self._session is not None:
            self._session.close()
        self._database.close()

    def sql(self, query: str, params: Sequence[Any] = ()) -> duckdb.DuckDBPyRelation:
        """Run trusted SQL; the names of schema v1 need no prefix.

        Parameters
        ----------
        params : values for the `?` of the query.

        Returns
        -------
        A DuckDB relation, evaluated when it is fetched.

        Raises
        ------
        RegistryError : DuckDB cannot answer.
        """
        with translated(self._database.path):
            if self._session is None:
                self._session = self._database.cursor()
                self._session.execute("SET search_path = 'v1,main'")
            return self._session.sql(query, params=list(params) or None)

    def as_of(self, scan: int, view: str = "edges") -> duckdb.DuckDBPyRelation:
        """Models, edges, scores or findings as they were at the end of a scan.

        Raises
        ------
        ValueError : another view.
        """
        if view not in ("models", "edges", "scores", "findings"):
            raise ValueError(f"history is kept of models, edges, scores and findings, not {view!r}")
        return self.sql(f"FROM v1.{view}_as_of(?)", [scan])

    def run_readonly(self, query: str, *, max_rows: int | None = None) -> QueryResult:
        """Run one SELECT or EXPLAIN that a person typed; see `sandbox` for what that keeps out.

        Raises
        ------
        QueryRefused : not exactly one read-only statement, or it reaches outside the store.
        RegistryError : opened for writing, or DuckDB cannot answer.
        """
        return run_readonly(self._database, query, max_rows=max_rows)

    def resolve_name(self, name: str) -> str:
        """The current name of a model, from a current or former name or another case of it."""
        return name_of(self._database, find_id(self._database, name))

    def describe(self, model: str) -> dict[str, Any]:
        """The row of `v1.models` of a model."""
        return one_model.describe(self._database, model)

    def descendants(
        self, model: str, *, max_depth: int | None = None, min_confidence: float = 0.0
    ) -> list[Kin]:
        """Everything that comes from a model, by distance and name.

        `min_confidence` is held against the weakest edge on the surest way; a way that rests on a
        claim alone has 0.
        """
        return queries.kin(
            self._database, model, up=False, max_depth=max_depth, min_confidence=min_confidence
        )

    def ancestors(
        self, model: str, *, max_depth: int | None = None, min_confidence: float = 0.0
    ) -> list[Kin]:
        """Everything that a model comes from, by distance and name."""
        return queries.kin(
            self._database, model, up=True, max_depth=max_depth, min_confidence=min_confidence
        )

    def page(self, model: str, *, up: bool = False, limit: int = 100, offset: int = 0) -> list[Kin]:
        """A page of the descendants (ancestors with `up`), by distance, without naming the rest.

        The order within a distance is that in which the store met the models; it stays the same
        until the next scan.
        """
        return queries.page(self._database, model, up=up, limit=limit, offset=offset)

    def descendant_ids(self, model: str) -> NDArray[np.int32]:
        """(k,) int32 internal ids of all descendants, without the cost of their names."""
        return queries.descendant_ids(self._database, model)

    def tree(self, model: str, *, depth: int | None = None, up: bool = False) -> list[TreeRow]:
        """The tree below a model (above it with `up`), parents before children."""
        return tree(self._database, model, depth=depth, up=up)

    def why(self, child: str, parent: str | None = None) -> Why:
        """All evidence for and against the parents of a child, or one of them."""
        return one_model.why(self._database, child, parent=parent)

    def findings(self, *, kind: str | None = None, ancestor: str | None = None) -> list[FindingRow]:
        """Findings of a kind; `ancestor` keeps those on a model, its descendants, or against it."""
        return queries.findings(self._database, kind=kind, ancestor=ancestor)

    def scores_of(self, model: str, *, probe: str | None = None) -> list[Score]:
        """Probe results of a model, newest first."""
        return one_model.scores_of(self._database, model, probe=probe)

    def fingerprints(self, *, prompt_set: str, version: str) -> list[FingerprintRow]:
        """Where the newest fingerprint of each live model on a prompt set lies, by name."""
        return fingerprints(self._database, prompt_set=prompt_set, version=version)

    def fingerprinted_lines(self, *, prompt_set: str, version: str) -> list[tuple[str, str]]:
        """(model, ancestor) for every ancestor of the models that have such a fingerprint."""
        return fingerprinted_lines(self._database, prompt_set=prompt_set, version=version)

    def behavioural_kin(self, model: str) -> list[dict[str, Any]]:
        """The rows of `v1.behavioural_kin` of a model, the most alike first."""
        return self._database.records(
            "SELECT * FROM v1.behavioural_kin WHERE model = ? "
            "ORDER BY prompt_set, debiased_cka DESC, other",
            [self.resolve_name(model)],
        )

    def changes(self, after: int, until: int) -> list[Change]:
        """What the scans after one and up to another found different."""
        return queries.changes(self._database, after=after, until=until)

    def diff(self, scan_a: int, scan_b: int) -> list[dict[str, Any]]:
        """What differs at the end of one scan from the end of another: scan, kind, subject, before,
        after. New models and edges are among it; `scan_a` 0 is before the first.

        Raises
        ------
        NotInRegistry : there is no such scan.
        """
        return queries.diff(self._database, scan_a, scan_b)

    def export(self, selection: Selection, *, to: str, out: Path | None, stdout: TextIO) -> None:
        """Write part of the graph in the format of another tool, to a file or to `stdout`.

        Raises
        ------
        NotInRegistry : no such model.
        RegistryError : no such view, or what the format cannot hold.
        """
        from .export import export

        export(self._database, selection, to=to, out=out, stdout=stdout)

    def status(self) -> Status:
        """What the store holds and what is still to do."""
        return queries.status(self._database)

    def scans(self) -> list[ScanState]:
        """All scans, newest first."""
        return queries.scans(self._database)

    def resume_scan(self, *, source: str, target: str | None = None) -> ScanState | None:
        """The last scan of this source and target if it did not end, None otherwise.

        Its `cursor` goes on with the listing unless `listing_done`; `unvisited` has what was
        listed before.
        """
        found = queries.scans(
            self._database,
            condition="s.source = ? AND s.target IS NOT DISTINCT FROM ?",
            values=[source, target],
        )
        return found[0] if found and found[0].status in ("running", "interrupted") else None

    def sketched(
        self,
        *,
        shape_keys: Collection[str] | None = None,
        formats: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[SketchRow]:
        """The newest sketched revision of each live model, by name; None stands for any.

        A model whose newest commit was not visited yet stands here with its last sketch and
        `current` False.
        """
        return queries.sketched(self._database, shape_keys=shape_keys, formats=formats, names=names)

    def placed_models(self, *, code_version: str) -> frozenset[str]:
        """Names of the models that this version of inference has decided."""
        return placed_models(self._database, code_version=code_version)

    def believed_parents(self) -> list[tuple[str, str, str]]:
        """(child, parent, relation) of every inferred edge, the heaviest parent first."""
        return believed_parents(self._database)

    def needs_visit(self, info: ModelInfo, *, plan: str) -> bool:
        """Whether this sha still wants a visit under this sketch plan version."""
        return self.needs_visits([info], plan=plan)[0]

    def needs_visits(self, infos: Sequence[ModelInfo], *, plan: str) -> list[bool]:
        """`needs_visit` for many models in one query."""
        return needs_visits(self._database, infos, plan=plan)

    def unvisited(self, scan: int, *, limit: int = 1_000_000) -> list[ModelInfo]:
        """Models that a scan listed and has no coverage of, in listing order.

        Their descriptions are as stored: without card and config.
        """
        return unvisited(self._database, scan=scan, limit=limit)

    def last_outcomes(self, infos: Sequence[ModelInfo]) -> list[Outcome | None]:
        """How the last visit of each model's sha ended; None where there was none."""
        return last_outcomes(self._database, infos)

    def outcomes(self, scan: int) -> dict[Outcome, int]:
        """Models of a scan by how their visit ended; each model counts once."""
        return queries.outcomes(self._database, scan=scan)

    def scored(self, prompt_set: str) -> list[str]:
        """Models whose current revision has scores on the prompt set of this digest, by name."""
        return queries.scored(self._database, prompt_set)

    def measured(self, probe: str, *, prompt_set: str | None = None) -> set[str]:
        """Models whose current revision has an answer of a probe, on this prompt set or on any."""
        return queries.measured(self._database, probe, prompt_set=prompt_set)

    def judges(self, kind: str) -> list[JudgeDefinition]:
        """The judges of a kind that graded here, the oldest first."""
        return safety.judges(self._database, kind=kind)

    def believed_edges(self, *, child: str | None = None) -> list[BelievedEdge]:
        """The edges that the closure follows, of one child or of each, the largest share first."""
        return safety.believed_edges(self._database, child=child)

    def survival(self, model: str, *, probe: str, judge: str = "lexical") -> list[dict[str, Any]]:
        """What descendants of a model retained of a probe: the macro `survival`, by one judge."""
        return safety.survival(self._database, model, probe=probe, judge=judge)

    def claim_gaps(self, *, min_confidence: float) -> list[ClaimGap]:
        """Models whose inferred parent no claim of theirs accounts for."""
        return claim_gaps(self._database, min_confidence=min_confidence)
