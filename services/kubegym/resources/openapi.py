"""What a resources server serves, as OpenAPI paths."""

from __future__ import annotations

from typing import Any

from kubegym.resources.tools import ToolSet

_OBJECT = {"type": "object"}
_ROW = {"type": "object", "properties": {"responses_create_params": _OBJECT}, "additionalProperties": True}
_WITH_RESPONSE = {
    "type": "object",
    "required": ["response"],
    "properties": {
        "responses_create_params": _OBJECT,
        "response": {
            "type": "object",
            "required": ["output"],
            "properties": {"output": {"type": "array", "items": _OBJECT}},
        },
    },
    "additionalProperties": True,
}
_REWARD = {
    "type": "object",
    "required": ["reward"],
    "properties": {"reward": {"type": ["number", "null"]}},
    "additionalProperties": True,
}
_STEP = {
    "type": "object",
    "properties": {
        "observation": {"type": ["string", "object", "null"]},
        "reward": {"type": ["number", "null"]},
        "terminated": {"type": "boolean"},
        "truncated": {"type": "boolean"},
        "info": _OBJECT,
    },
}

_FAILURES = {
    "410": {"description": "The session is lost."},
    "500": {"description": "The environment failed; the body says how."},
    "503": {"description": "The server is shutting down, or has as many sessions as it may."},
}


def paths(tools: ToolSet, *, aggregates: bool, mcp: bool) -> dict[str, Any]:
    """The paths of a server with these tools; ``aggregates`` and ``mcp`` say which of the optional routes it has."""
    found: dict[str, Any] = {
        "/seed_session": _post("Begin the session of a rollout.", _ROW, _OBJECT),
        "/verify": _post("Score a rollout.", _WITH_RESPONSE, _REWARD),
        "/reset": _post("Begin a rollout as a gymnasium environment.", _ROW, _STEP),
        "/step": _post("Answer the policy's turn.", _WITH_RESPONSE, _STEP),
        "/close": _post("End a session.", _OBJECT, _OBJECT),
        "/reverify_mode": {
            "get": {
                "summary": "Whether stored rollouts can be verified again.",
                "responses": _answers({"type": "string"}),
            }
        },
    }
    if aggregates:
        request = {"type": "object", "properties": {"verify_responses": {"type": "array", "items": _OBJECT}}}
        found["/aggregate_metrics"] = _post("Metrics over rollouts.", request, _OBJECT)
    if mcp:
        found["/mcp"] = _post("The tools over MCP (Streamable HTTP).", _OBJECT, _OBJECT)
    for definition in tools.definitions:
        found[f"/{definition['name']}"] = {
            "post": {
                "summary": definition["description"],
                "requestBody": _json(definition["parameters"]),
                "responses": {
                    "200": {"description": "The tool's output.", "content": {"text/plain": {}}},
                    "400": {"description": "The tool's refusal.", "content": {"text/plain": {}}},
                    "422": {"description": "The arguments do not validate."},
                    **_FAILURES,
                },
            }
        }
    return {"paths": found}


def _post(summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {"post": {"summary": summary, "requestBody": _json(body), "responses": _answers(answer)}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answers(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "200": {"description": "OK", "content": {"application/json": {"schema": schema}}},
        "422": {"description": "The request does not validate."},
        **_FAILURES,
    }
