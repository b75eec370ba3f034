"""Bills of materials: CycloneDX 1.6 with pedigree, and SPDX 3 with the AI profile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ... import __version__
from ...lineage.errors import RegistryError
from .graph import Graph, Link, Node, harmless

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

_SCORES = """
SELECT s.model AS id, s.probe, s.probe_version, s.prompt_set, s.judge, s.n, s.value, s.ci_low,
    s.ci_high, s.unit
FROM internal.scores s
WHERE s.status = 'ok' AND s.model IN (SELECT id FROM exported)
ORDER BY s.model, s.probe, s.prompt_set, s.judge
"""
SPDX_CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"


def cyclonedx(graph: Graph, *, now: datetime) -> Iterator[str]:
    """A CycloneDX 1.6 bill of one model: its parents in `pedigree.ancestors`, as far as known.

    Every ancestor is a component with its own pedigree. What the weights say stands in properties
    `modelkin:*`, confidence and probe results among them.

    Raises
    ------
    RegistryError : no model was named, or the extra `bom` is not installed.
    """
    try:
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Pedigree
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise RegistryError("CycloneDX needs the extra bom: pip install 'modelkin[bom]'") from error
    nodes = {node.id: node for node in graph.nodes()}
    root = _root(graph, nodes)
    parents: dict[int, list[Link]] = {}
    for link in graph.links():
        parents.setdefault(link.child, []).append(link)
    scores: dict[int, list[dict[str, Any]]] = {}
    for row in graph.rows(_SCORES):
        scores.setdefault(row["id"], []).append(row)
    bom = Bom()
    bom.metadata.timestamp = now
    components = {id: _component(node, scores=scores.get(id, [])) for id, node in nodes.items()}
    for id, component in components.items():
        links = parents.get(id, [])
        component.pedigree = Pedigree(ancestors=[_ancestor(nodes[at.parent], at) for at in links])
        if id == root.id:
            bom.metadata.component = component
        else:
            bom.components.add(component)
        bom.register_dependency(component, [components[at.parent] for at in links])
    yield JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def spdx(graph: Graph, *, now: datetime) -> Iterator[str]:
    """SPDX 3.0.1 JSON-LD: models as AI packages, edges as `ancestorOf` relationships."""
    creation = "_:creationInfo"
    agent = _iri("agent", "modelkin")
    elements: list[dict[str, Any]] = [
        {
            "type": "CreationInfo", "@id": creation, "specVersion": "3.0.1",
            "created": f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", "createdBy": [agent],
        },
        {"type": "SoftwareAgent", "spdxId": agent, "creationInfo": creation,
         "name": f"modelkin {__version__}"},
    ]  # fmt: skip
    names: dict[int, str] = {}
    for node in graph.nodes():
        names[node.id] = _iri("model", f"{node.source}/{node.name}@{node.sha}")
        elements.append(_package(node, spdx_id=names[node.id], creation=creation))
    for link in graph.links():
        elements.append(
            {
                "type": "Relationship",
                "spdxId": _iri("edge", f"{names[link.parent]} {names[link.child]}"),
                "creationInfo": creation,
                "relationshipType": "ancestorOf",
                "from": names[link.parent],
                "to": [names[link.child]],
                "comment": f"{link.relation or 'claimed'}, confidence {link.confidence:.3f}, "
                f"declared: {link.declared}, inferred: {link.inferred}",
            }
        )
    document = {
        "type": "SpdxDocument",
        "spdxId": _iri("document", " ".join(names.values())),
        "creationInfo": creation,
        "profileConformance": ["core", "software", "ai"],
        "rootElement": list(names.values())[:1],
        "element": [element["spdxId"] for element in elements if "spdxId" in element],
    }
    yield json.dumps({"@context": SPDX_CONTEXT, "@graph": [document, *elements]}, indent=1) + "\n"


def _root(graph: Graph, nodes: dict[int, Node]) -> Node:
    if graph.root is None:
        raise RegistryError("a CycloneDX bill is of one model: name it")
    return nodes[graph.root]


def _component(node: Node, *, scores: Sequence[dict[str, Any]] = ()) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    component = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=node.label,
        bom_ref=f"model-{node.id}",
        version=None if node.sha is None else harmless(node.sha),
        purl=_purl(node),
        licenses=[_license(node.license)] if node.license else None,
    )
    facts = {
        "source": node.source, "architecture": node.architecture, "format": node.format,
        "dtype": node.dtype, "parameters": node.n_params, "hidden": node.hidden,
        "lost_safety_training": node.stripped,
    }  # fmt: skip
    for name, value in facts.items():
        if value is not None:
            component.properties.add(Property(name=f"modelkin:{name}", value=_plain(value)))
    for score in scores:
        component.properties.add(Property(name="modelkin:score", value=_score(score)))
    return component


def _ancestor(node: Node, link: Link) -> Component:
    from cyclonedx.model import Property

    component = _component(node)
    component.bom_ref.value = f"edge-{link.parent}-{link.child}"
    for name in ("relation", "confidence", "declared", "inferred", "share"):
        value = getattr(link, name)
        if value is not None:
            component.properties.add(Property(name=f"modelkin:edge:{name}", value=_plain(value)))
    return component


def _license(text: str) -> Any:
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import fixup_id

    known = fixup_id(text)
    return DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=harmless(text))


def _purl(node: Node) -> Any:
    from packageurl import PackageURL

    if node.source != "hub" or "/" not in node.name:
        return None
    namespace, name = node.label.split("/", 1)
    return PackageURL(type="huggingface", namespace=namespace, name=name, version=node.sha)


def _score(score: dict[str, Any]) -> str:
    shown = {key: value for key, value in score.items() if key != "id"}
    return json.dumps(shown, sort_keys=True)


def _package(node: Node, *, spdx_id: str, creation: str) -> dict[str, Any]:
    package = {
        "type": "ai_AIPackage",
        "spdxId": spdx_id,
        "creationInfo": creation,
        "name": node.label,
        "software_packageVersion": None if node.sha is None else harmless(node.sha),
        "software_primaryPurpose": "model",
        "software_downloadLocation": f"https://huggingface.co/{quote(node.name, safe='/')}"
        if node.source == "hub"
        else None,
        "ai_typeOfModel": [harmless(node.architecture)] if node.architecture else None,
        "releaseTime": f"{node.created_at:%Y-%m-%dT%H:%M:%SZ}" if node.created_at else None,
        "comment": f"license tag: {harmless(node.license)}" if node.license else None,
    }
    return {key: value for key, value in package.items() if value is not None}


def _iri(kind: str, identity: str) -> str:
    return f"urn:modelkin:{kind}:{hashlib.sha256(identity.encode()).hexdigest()[:32]}"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else harmless(str(value))
