"""The OpenAPI document, from the same table that reads the addresses."""

from __future__ import annotations

from typing import Any

from ... import __version__
from .questions import QUESTIONS, schema_of
from .values import Parameter

_OBJECT = {
    "type": "object",
    "required": ["ok", "rows", "total", "next"],
    "properties": {
        "ok": {"type": "boolean", "const": True},
        "as_of": {"type": ["string", "null"], "description": "Snapshot, null for the newest state"},
        "rows": {"type": "array", "items": {"type": "object"}},
        "total": {"type": "integer", "description": "All rows, of which these are a page"},
        "next": {"type": ["string", "null"], "description": "Token of the next page"},
    },
}
_ERROR = {
    "type": "object",
    "required": ["ok", "error", "status"],
    "properties": {
        "ok": {"type": "boolean", "const": False},
        "error": {"type": "string"},
        "status": {"type": "integer"},
    },
}
_ERRORS = {
    "400": "a parameter or query that cannot be read",
    "404": "no such model, edge or snapshot",
    "429": "too many requests; Retry-After says when to come back",
    "503": "busy; Retry-After says when to come back",
}


def describe_api() -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    as_of = Parameter(name="as_of", about="Snapshot to answer from; the newest state without it")
    paths = {
        f"/api/v1/{name}": _operation(one.summary, (*one.parameters, as_of))
        for name, one in QUESTIONS.items()
    }
    query = Parameter(name="query", about="One SELECT or EXPLAIN on schema v1", required=True)
    paths["/api/v1/sql"] = _operation("The answer of the store to a query", (query, as_of))
    paths["/api/v1/snapshots"] = _operation("Snapshots that as_of can name", ())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "modelkin",
            "version": __version__,
            "summary": "Lineage of open-weight models, with evidence",
        },
        "paths": paths,
        "components": {"schemas": {"Answer": _OBJECT, "Error": _ERROR}},
    }


def _operation(summary: str, parameters: tuple[Parameter, ...]) -> dict[str, Any]:
    listed = [
        {
            "name": one.name,
            "in": "query",
            "required": one.required,
            "description": one.about,
            "schema": schema_of(one),
        }
        for one in parameters
    ]
    responses = {"200": _response("An answer", "Answer")}
    responses |= {code: _response(words, "Error") for code, words in _ERRORS.items()}
    return {"get": {"summary": summary, "parameters": listed, "responses": responses}}


def _response(words: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": words, "content": content}
