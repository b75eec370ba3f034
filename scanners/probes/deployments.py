"""Tier 5: a checkpoint within a composition, behind a server, as a node of its own."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from ...lineage.errors import BudgetExceeded, ProbeError
from ...lineage.records import Coverage, DeclaredParent, ModelInfo, Outcome, Score
from ...lineage.safety.catalogue import LOG_ODDS, PROBES
from ...lineage.safety.protocol import Status, Subject, Tier, as_score
from ...store.facts import RevisionFacts
from ...store.registry import Registry
from ..progress import Progress, Silence
from ..report import ProbeReport, announce
from .contexts import Context
from .endpoint_backend import EndpointBackend
from .judging import Judges
from .prompt_sets import PromptSet
from .refusal_scores import probe_refusal, unanswered_scores
from .server_odds import ServerOdds

SOURCE: Final = "deployment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A composition and the checkpoint it is a child of.

    `composition` is plain JSON without texts, keys or paths: origin of the server, name it serves
    the model by, protocol, and digests of what is composed around a prompt.
    """

    checkpoint: str
    checkpoint_sha: str | None
    composition: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 of the composition and its checkpoint."""
        parts = [self.checkpoint, self.checkpoint_sha, dict(self.composition)]
        canonical = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @property
    def name(self) -> str:
        """Name of the node."""
        return f"deployment:{self.digest[:32]}"


@dataclass(slots=True, kw_only=True)
class DeploymentProber:
    """Probes a served checkpoint in several contexts; each is a node `deployment:<digest>`.

    `odds` asks for the first token of each reply as well; None leaves it out.
    """

    registry: Registry
    backend: EndpointBackend
    prompts: PromptSet
    now: Callable[[], datetime]
    judges: Judges
    odds: ServerOdds | None = None
    progress: Progress = field(default_factory=Silence)

    def run(self, scan: int, checkpoint: str, contexts: Sequence[Context]) -> ProbeReport:
        """Probe a checkpoint as it is served, once a context.

        Scores are new each time: a server may change without its address changing.
        """
        announce(self.registry, Tier.GENERATION)
        if self.odds is not None:
            announce(self.registry, Tier.ACTIVATIONS)
        self.progress.stage("probe deployment", len(contexts))
        failed: dict[str, str] = {}
        names = []
        for one in contexts:
            backend = replace(self.backend, context=one)
            deployment = self._deployment(checkpoint, backend)
            self._record(scan, deployment)
            names.append(deployment.name)
            scores = [*self._ask(deployment, backend), *self._tell(deployment, backend)]
            self.registry.add_scores(scan, scores)
            bad = next((score for score in scores if _failed(score)), None)
            if bad is not None:
                failed[deployment.name] = str(bad.environment.get("reason", bad.status))
            self.progress.step(one.name)
        self.registry.rebuild_closure()
        return ProbeReport(
            probed=len(names) - len(failed), unchanged=0, failed=failed, names=tuple(names)
        )

    def _tell(self, deployment: Deployment, backend: EndpointBackend) -> Iterator[Score]:
        """The log odds of opening with a refusal, where they are asked for."""
        if self.odds is None:
            return
        began = time.monotonic()
        found = self.odds.measure(backend, context=backend.context.name)
        subject = Subject(model=deployment.name, sha=deployment.digest, now=self.now())
        score = as_score(
            found,
            PROBES[LOG_ODDS],
            subject=subject,
            seconds=time.monotonic() - began,
            prompt_set=self.prompts.identity,
        )
        yield replace(score, environment={**backend.environment(), **score.environment})

    def _deployment(self, checkpoint: str, backend: EndpointBackend) -> Deployment:
        sha = self.registry.describe(checkpoint)["sha"]
        return Deployment(
            checkpoint=checkpoint,
            checkpoint_sha=None if sha is None else str(sha),
            composition=dict(backend.environment()),
        )

    def _record(self, scan: int, deployment: Deployment) -> None:
        info = ModelInfo(
            source=SOURCE,
            source_id=deployment.digest,
            name=deployment.name,
            sha=deployment.digest,
        )
        parent = DeclaredParent(
            raw=deployment.checkpoint,
            name=deployment.checkpoint,
            relation=None,
            via="deployment",
            revision=deployment.checkpoint_sha,
        )
        self.registry.record_visit(
            scan,
            Coverage(model=deployment.name, outcome=Outcome.OK, stage="deployment"),
            info=info,
            facts=RevisionFacts(format="endpoint", config=dict(deployment.composition)),
            declared=[parent],
            now=self.now(),
        )

    def _ask(self, deployment: Deployment, backend: EndpointBackend) -> tuple[Score, ...]:
        try:
            return probe_refusal(
                backend=backend,
                model=deployment.name,
                sha=deployment.digest,
                prompts=self.prompts,
                now=self.now(),
                environment=backend.environment(),
                judges=self.judges,
            )
        except BudgetExceeded as error:
            return unanswered_scores(
                error=ProbeError(f"not probed: {error}"),
                model=deployment.name,
                sha=deployment.digest,
                prompts=self.prompts,
                now=self.now(),
                environment=backend.environment(),
            )


def _failed(score: Score) -> bool:
    """A probe of replies without an answer, or odds that should have come: not one unsupported."""
    if score.probe == LOG_ODDS:
        return score.status == Status.ERROR
    return score.status != Status.OK
