"""The registry: one store folder, one writer, every write one transaction."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..lineage.errors import NotInRegistry
from ..lineage.records import (
    Coverage,
    DeclaredParent,
    Finding,
    InferredEdge,
    ModelInfo,
    RejectedParent,
    Score,
)
from .behaviour import add_fingerprint, replace_behaviour
from .closing import maintain_closure, rebuild_closure
from .corrections import Correction, replace_corrections
from .database import Database
from .facts import (
    BehaviourRow,
    FingerprintRow,
    HiddenModel,
    JudgeDefinition,
    ProbeDefinition,
    PromptSet,
    RevisionFacts,
    Visit,
)
from .findings import (
    add_probe,
    add_prompt_set,
    add_scores,
    refresh_flagged,
    replace_findings,
)
from .history import inference_kept, listing_kept, scores_kept, versions_kept
from .inference import replace_inference
from .ledger import Ledger
from .manifest import SnapshotManifest
from .names import find_id
from .others import Ingested, ingest
from .reader import RegistryReader
from .redaction import Redactions, redact
from .safety import add_judge
from .snapshots import write_snapshot
from .staging import json_text, text, utc
from .visits import add_page, record_visits

_END_STATES = ("done", "interrupted", "failed")


class Registry(RegistryReader):
    """A store: `registry.duckdb`, `sketches/` and `scan.lock` in one folder.

    Made by `Registry.open`; use it as a context manager. Each writing method is one transaction:
    when it returns, its rows survive a kill; when it raises, nothing of it is there. All of them
    can be called again with the same arguments and leave the same rows. Threads may share a
    registry; writes then take turns.

    Every writing method raises `RegistryError` when the registry was opened read-only or the disk
    is full.
    """

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, read_only: bool = False, create: bool = False
    ) -> Self:
        """Open a store folder.

        Parameters
        ----------
        read_only : never write; while another process writes, its published copy
            (`current/registry.duckdb`) is opened instead, if there is one.
        create : make the folder and the file when they are missing.

        Raises
        ------
        RegistryBusy : another process has the store open (exit 4).
        SchemaTooNew : the store was written by a newer modelkin.
        RegistryError : there is no store there, or it cannot be read.
        """
        folder = Path(path)
        return cls(Database.open(folder, read_only=read_only, create=create), path=folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def start_scan(
        self,
        *,
        kind: str,
        source: str,
        target: str | None = None,
        parameters: Mapping[str, Any],
        now: datetime,
    ) -> int:
        """Begin a scan and return its number.

        An unfinished scan of the same source and target is given up (`abandoned`). `parameters`
        are stored as they are: no token belongs in them.
        """
        same = "source = ? AND target IS NOT DISTINCT FROM ?"
        with self._database.transaction() as connection:
            redacted = Redactions.of(connection)
            target = None if target is None else redacted.masked_name(target)
            parameters = redacted.masked_json(parameters)
            where = [text(source), text(target)]
            connection.execute(
                "UPDATE internal.scans SET status = 'abandoned' "
                f"WHERE status IN ('running', 'interrupted') AND {same}",
                where,
            )
            found = connection.execute(
                "INSERT INTO internal.scans BY NAME SELECT "
                "(SELECT coalesce(max(scan), 0) + 1 FROM internal.scans) AS scan, ? AS kind, "
                "? AS source, ? AS target, ?::JSON AS parameters, 'running' AS status, "
                "false AS listing_done, ?::TIMESTAMP AS started_at RETURNING scan",
                [kind, *where, json_text(parameters), utc(now)],
            ).fetchall()
        return int(found[0][0])

    def finish_scan(self, scan: int, *, status: str, now: datetime) -> None:
        """End a scan: `done`, `interrupted` (can be resumed) or `failed`; rebuild the closure.

        Raises
        ------
        ValueError : an unknown status.
        NotInRegistry : there is no such scan.
        """
        if status not in _END_STATES:
            raise ValueError(f"a scan ends as one of {', '.join(_END_STATES)}, not {status!r}")
        with self._database.transaction() as connection:
            found = connection.execute(
                "UPDATE internal.scans SET status = ?, finished_at = ? WHERE scan = ? "
                "RETURNING scan",
                [status, utc(now), scan],
            ).fetchall()
            if not found:
                raise NotInRegistry(f"there is no scan {scan}", name=str(scan))
            maintain_closure(connection)
            refresh_flagged(connection)

    def add_page(
        self,
        scan: int,
        models: Sequence[ModelInfo],
        *,
        next_cursor: str | None,
        declared: Mapping[str, Sequence[DeclaredParent]] | None = None,
        now: datetime,
    ) -> None:
        """Store one listing page and the cursor after it, together or not at all.

        Parameters
        ----------
        next_cursor : where the listing goes on; None marks the listing as done.
        declared : model name to all that it claims; models that are missing keep their claims.

        Raises
        ------
        NotInRegistry : there is no such scan.
        """
        with self._database.transaction() as connection:
            redacted = Redactions.of(connection)
            models = [redacted.masked_info(info) for info in models if not redacted.hold(info)]
            with listing_kept(connection, models, scan=scan):
                add_page(
                    connection,
                    models,
                    scan=scan,
                    next_cursor=next_cursor,
                    declared=redacted.masked(declared or {}),
                    now=now,
                )

    def record_visit(
        self,
        scan: int,
        coverage: Coverage,
        *,
        info: ModelInfo | None = None,
        facts: RevisionFacts | None = None,
        declared: Sequence[DeclaredParent] | None = None,
        plan: str | None = None,
        now: datetime,
    ) -> None:
        """Store what one visit brought: description, facts, claims and its coverage row.

        `declared` needs `info`. `plan` is the sketch plan version the visit followed (default:
        that of `facts`); a permanent skip holds until the plan changes.

        Raises
        ------
        NotInRegistry : facts for a model that is not in the store, without `info`.
        """
        claims = None if declared is None else tuple(declared)
        visit = Visit(coverage=coverage, info=info, facts=facts, declared=claims, plan=plan)
        self.record_visits(scan, [visit], now=now)

    def record_visits(self, scan: int, visits: Sequence[Visit], *, now: datetime) -> None:
        """`record_visit` for many models in one transaction."""
        if not visits:
            return
        with self._database.transaction() as connection:
            visits = _allowed(visits, redacted=Redactions.of(connection))
            infos = [visit.info for visit in visits if visit.info is not None]
            names = [visit.coverage.model for visit in visits]
            if visits:
                with listing_kept(connection, infos, names=names, scan=scan):
                    record_visits(connection, visits, scan=scan, now=now)

    def replace_inference(
        self,
        scan: int,
        *,
        edges: Sequence[InferredEdge],
        rejected: Sequence[RejectedParent] = (),
        hidden: Sequence[HiddenModel] = (),
        scope: Collection[str] | None = None,
        code_version: str,
        inputs_digest: str,
        now: datetime,
    ) -> None:
        """Replace what is inferred about the models in `scope` and rebuild the closure.

        Claims keep their flag: an edge both declared and inferred is one row. Hidden models that
        no child needs any more get a tombstone.

        Parameters
        ----------
        edges, rejected : parents believed and parents that lost, by model name or hidden node.
        hidden : the hidden nodes that `edges` name.
        scope : names of the children that were decided anew; None for all in the store. Children
            of `edges` and `rejected` always count among them.

        Raises
        ------
        NotInRegistry : a name that the store does not hold.
        """
        decided = {e.child for e in edges} | {r.child for r in rejected} | set(scope or ())
        with (
            self._database.transaction() as connection,
            inference_kept(connection, None if scope is None else decided, scan=scan),
        ):
            replace_inference(
                connection,
                edges=edges,
                rejected=rejected,
                hidden=hidden,
                scope=scope,
                code_version=code_version,
                inputs_digest=inputs_digest,
                scan=scan,
                now=now,
            )

    def ledger(self) -> Ledger:
        """Sweeps, queue, events and publications of nightly scans."""
        return Ledger(self._database)

    def rebuild_closure(self) -> None:
        """Compute all ancestors and descendants anew from the edges believed."""
        with self._database.transaction() as connection:
            rebuild_closure(connection)

    def add_fingerprint(self, scan: int, row: FingerprintRow) -> None:
        """Store where a fingerprint of hidden states lies; `activations` holds the file.

        Raises
        ------
        NotInRegistry : no such model, or no such revision of it.
        """
        with self._database.transaction() as connection:
            add_fingerprint(connection, row, scan=scan)

    def replace_behaviour(
        self, scan: int, pairs: Sequence[BehaviourRow], *, prompt_set: str, version: str
    ) -> None:
        """Make these the pairs that see the prompts of a set most alike.

        Raises
        ------
        NotInRegistry : a model that the store does not hold.
        """
        with self._database.transaction() as connection:
            replace_behaviour(connection, pairs, prompt_set=prompt_set, version=version, scan=scan)

    def add_scores(self, scan: int, scores: Sequence[Score]) -> None:
        """Store probe results; the same probe, version, prompt set and judge are replaced.

        An answer is not replaced by a failure to ask again (`error`, `unsupported`).

        Raises
        ------
        NotInRegistry : a model or sha that the store does not hold.
        """
        if not scores:
            return
        models = {score.model for score in scores}
        with self._database.transaction() as connection, scores_kept(connection, models, scan=scan):
            add_scores(connection, scores, scan=scan)

    def replace_findings(
        self,
        scan: int,
        kind: str,
        findings: Sequence[Finding],
        *,
        scope: Collection[str] | None = None,
        code_version: str | None = None,
        now: datetime,
    ) -> None:
        """Make these the findings of one kind; those no longer found become `fixed`.

        The store keeps the status over scans: new, then open, fixed when it is gone. A finding
        passed in as `ignored` stays so.

        Parameters
        ----------
        scope : only findings on these models can become fixed; None for all.

        Raises
        ------
        NotInRegistry : a model or ancestor that the store does not hold.
        """
        of_kind = "t.kind = '" + kind.replace("'", "''") + "'"
        with (
            self._database.transaction() as connection,
            versions_kept(connection, "findings", scan=scan, condition=of_kind),
        ):
            replace_findings(
                connection,
                findings,
                kind=kind,
                scope=scope,
                code_version=code_version,
                scan=scan,
                now=now,
            )

    def replace_corrections(self, scan: int, corrections: Sequence[Correction]) -> list[str]:
        """Make these the reviewed decisions about edges; return names the store does not hold.

        They stand on top of inference until the next call, whatever is inferred.
        """
        with self._database.transaction() as connection:
            redacted = Redactions.of(connection)
            known = [redacted.masked_correction(one) for one in corrections]
            missing = replace_corrections(connection, known, scan=scan)
            maintain_closure(connection)
        return missing

    def redact(self, model: str, *, reason: str, now: datetime) -> str:
        """Mask a model everywhere, delete its sketches, and never read it in again.

        Returns
        -------
        The name that stands for it.

        Raises
        ------
        NotInRegistry : there is no such model.
        """
        found = find_id(self._database, model)
        with self._database.transaction() as connection:
            redacted = redact(connection, found, reason=reason, now=now)
        for path in redacted.sketches:
            self.sketches.remove(path)
        for path in redacted.fingerprints:
            self.activations.remove(path)
        return redacted.name

    def ingest(self, scan: int, path: Path, *, kind: str, provenance: str) -> Ingested:
        """Take in edges or scores that others publish, in place of earlier ones of that provenance.

        Raises
        ------
        MalformedFile : a format or columns that cannot be read.
        """
        with self._database.transaction() as connection:
            return ingest(connection, path, kind=kind, provenance=provenance, scan=scan)

    def write_snapshot(self, *, now: datetime) -> SnapshotManifest:
        """Write `snapshots/<scan>/` from what is committed; `publish_snapshot` moves `current`."""
        return write_snapshot(self._database, folder=self.path, now=now)

    def add_prompt_set(self, prompt_set: PromptSet, *, now: datetime) -> None:
        """Store what a prompt set is; the prompts themselves are not kept."""
        with self._database.transaction() as connection:
            add_prompt_set(connection, prompt_set, now=now)

    def add_judge(self, judge: JudgeDefinition, *, now: datetime) -> None:
        """Store what graded replies; one of the same name is replaced."""
        with self._database.transaction() as connection:
            add_judge(connection, judge, now=now)

    def add_probe(self, probe: ProbeDefinition) -> None:
        """Store the definition of a probe version."""
        with self._database.transaction() as connection:
            add_probe(connection, probe)


def _allowed(visits: Sequence[Visit], *, redacted: Redactions) -> list[Visit]:
    """The visits without those of redacted models, and without such names in what they brought."""
    return [
        redacted.masked_visit(visit)
        for visit in visits
        if not redacted.hold_name(visit.coverage.model)
        and (visit.info is None or not redacted.hold(visit.info))
    ]
