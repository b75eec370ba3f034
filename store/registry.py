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
from .closure import rebuild_closure
from .database import Database
from .facts import HiddenModel, JudgeDefinition, ProbeDefinition, PromptSet, RevisionFacts, Visit
from .findings import add_probe, add_prompt_set, add_scores, replace_findings
from .inference import replace_inference
from .reader import RegistryReader
from .safety import add_judge
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
        where = [text(source), text(target)]
        with self._database.transaction() as connection:
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
            rebuild_closure(connection)

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
            add_page(
                connection,
                models,
                scan=scan,
                next_cursor=next_cursor,
                declared=declared or {},
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
        with self._database.transaction() as connection:
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

    def rebuild_closure(self) -> None:
        """Compute all ancestors and descendants anew from the edges believed."""
        with self._database.transaction() as connection:
            rebuild_closure(connection)

    def add_scores(self, scan: int, scores: Sequence[Score]) -> None:
        """Store probe results; the same probe, version, prompt set and judge are replaced.

        Raises
        ------
        NotInRegistry : a model or sha that the store does not hold.
        """
        if not scores:
            return
        with self._database.transaction() as connection:
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
        with self._database.transaction() as connection:
            replace_findings(
                connection,
                findings,
                kind=kind,
                scope=scope,
                code_version=code_version,
                scan=scan,
                now=now,
            )

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
