"""GraphML, GEXF, DOT and Mermaid: written as they are read, one node at a time.

Nodes are called by number in all of them; a name is only ever a label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from ...lineage.errors import RegistryError
from .graph import Graph, Link, Node, attributes, harmless, link_attributes

MERMAID_NODES = 500

_NODE_KEYS = {
    "label": "string", "source": "string", "license": "string", "format": "string",
    "dtype": "string", "architecture": "string", "n_params": "long", "downloads": "long",
    "created_at": "string", "hidden": "boolean", "stripped": "boolean",
}  # fmt: skip
_LINK_KEYS = {
    "relation": "string", "confidence": "double", "declared": "boolean", "inferred": "boolean",
    "share": "double",
}  # fmt: skip


def graphml(graph: Graph) -> Iterator[str]:
    """GraphML, for networkx, yEd, igraph."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    for target, keys in (("node", _NODE_KEYS), ("edge", _LINK_KEYS)):
        for name, kind in keys.items():
            yield f'<key id="{target}_{name}" for="{target}" attr.name="{name}" '
            yield f'attr.type="{kind}"/>\n'
    yield '<graph edgedefault="directed">\n'
    for node in graph.nodes():
        data = "".join(_data("node", name, value) for name, _, value in attributes(node))
        yield f'<node id="n{node.id}">{data}</node>\n'
    for link in graph.links():
        data = "".join(_data("edge", name, value) for name, _, value in link_attributes(link))
        yield f'<edge source="n{link.parent}" target="n{link.child}">{data}</edge>\n'
    yield "</graph>\n</graphml>\n"


def gexf(graph: Graph) -> Iterator[str]:
    """GEXF 1.2, for Gephi."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield '<gexf xmlns="http://www.gexf.net/1.2draft" version="1.2">\n'
    yield '<graph mode="static" defaultedgetype="directed">\n'
    for target, keys in (("node", _NODE_KEYS), ("edge", _LINK_KEYS)):
        yield f'<attributes class="{target}" mode="static">\n'
        for name, kind in keys.items():
            yield f'<attribute id="{target}_{name}" title="{name}" type="{kind}"/>\n'
        yield "</attributes>\n"
    yield "<nodes>\n"
    for node in graph.nodes():
        values = "".join(_value("node", name, value) for name, _, value in attributes(node))
        label = quoteattr(node.label)
        yield f'<node id="n{node.id}" label={label}><attvalues>{values}</attvalues></node>\n'
    yield "</nodes>\n<edges>\n"
    for number, link in enumerate(graph.links()):
        values = "".join(_value("edge", name, value) for name, _, value in link_attributes(link))
        yield f'<edge id="e{number}" source="n{link.parent}" target="n{link.child}">'
        yield f"<attvalues>{values}</attvalues></edge>\n"
    yield "</edges>\n</graph>\n</gexf>\n"


def dot(graph: Graph) -> Iterator[str]:
    """DOT, for Graphviz; lost safety training in red, hidden models and mere claims dashed."""
    yield 'digraph modelkin {\nrankdir=LR;\nnode [shape=box, fontname="sans-serif"];\n'
    for node in graph.nodes():
        yield f"n{node.id} [label={_dot_text(node.label)}{_dot_style(node)}];\n"
    for link in graph.links():
        style = "" if link.inferred else ", style=dashed"
        yield f"n{link.parent} -> n{link.child} [label={_dot_text(_words(link))}{style}];\n"
    yield "}\n"


def mermaid(graph: Graph, *, max_nodes: int = MERMAID_NODES) -> Iterator[str]:
    """A Mermaid flowchart, for Markdown pages.

    Raises
    ------
    RegistryError : more nodes than a page can draw.
    """
    if len(graph) > max_nodes:
        raise RegistryError(
            f"{len(graph):,} models are more than a Mermaid chart draws ({max_nodes:,}): narrow it "
            "with --depth, raise --max-nodes, or use --to dot"
        )
    yield "flowchart LR\n"
    for node in graph.nodes():
        yield f'  n{node.id}["{_mermaid_text(node.label)}"]\n'
        if node.stripped:
            yield f"  style n{node.id} stroke:#c00,stroke-width:3px\n"
    for link in graph.links():
        arrow = "-->" if link.inferred else "-.->"
        yield f'  n{link.parent} {arrow}|"{_mermaid_text(_words(link))}"| n{link.child}\n'


def _data(target: str, name: str, value: Any) -> str:
    return f'<data key="{target}_{name}">{escape(_xml_text(value))}</data>'


def _value(target: str, name: str, value: Any) -> str:
    return f'<attvalue for="{target}_{name}" value={quoteattr(_xml_text(value))}/>'


def _xml_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else harmless(str(value))


def _words(link: Link) -> str:
    share = "" if link.share is None else f" {link.share:.2f}"
    return f"{link.relation or 'claimed'}{share}"


def _dot_text(text: str) -> str:
    quoted = harmless(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _dot_style(node: Node) -> str:
    if node.stripped:
        return ', color="#cc0000", penwidth=3'
    return ", style=dashed" if node.hidden else ""


def _mermaid_text(text: str) -> str:
    """Everything that is no plain letter as the entity of its number."""
    return re.sub(r"[^A-Za-z0-9 ./:_-]", lambda found: f"#{ord(found[0])};", harmless(text))
