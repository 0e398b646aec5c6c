"""The model server's routes in OpenAPI's words."""

from __future__ import annotations

from typing import Any

from kubegym.model.forward import POSTED, READ

_STRING, _NUMBER, _INTEGER, _BOOLEAN = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_OBJECT = {"type": "object"}
_OBJECTS = {"type": "array", "items": _OBJECT}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_PARAMS = {
    "type": "object",
    "required": ["input"],
    "additionalProperties": False,
    "properties": {
        "input": {"anyOf": [_STRING, _OBJECTS]},
        "metadata": _nullable({"type": "object", "additionalProperties": _STRING}),
        "include": _nullable({"type": "array", "items": _STRING}),
        "tools": _nullable(_OBJECTS),
        "tool_choice": _nullable({"anyOf": [_STRING, _OBJECT]}),
        **dict.fromkeys(("reasoning", "text", "prompt"), _nullable(_OBJECT)),
        **dict.fromkeys(("background", "parallel_tool_calls", "store", "stream"), _nullable(_BOOLEAN)),
        **dict.fromkeys(("max_output_tokens", "max_tool_calls", "top_logprobs"), _nullable(_INTEGER)),
        **dict.fromkeys(("temperature", "top_p"), _nullable(_NUMBER)),
        **dict.fromkeys(
            ("instructions", "model", "previous_response_id", "service_tier", "truncation", "user"), _nullable(_STRING)
        ),
    },
}
_CHAT = {"type": "object", "required": ["messages"], "properties": {"messages": _OBJECTS, "stream": _BOOLEAN}}
_MESSAGES = {
    "type": "object",
    "required": ["messages", "max_tokens"],
    "properties": {
        "messages": _OBJECTS,
        "max_tokens": _INTEGER,
        "system": {"anyOf": [_STRING, _OBJECTS]},
        "tools": _OBJECTS,
        "stream": _BOOLEAN,
    },
}
_ERRORS = {
    "4XX": "The request cannot be answered as it is, or (429) not now.",
    "5XX": "The upstream broke (502), is overloaded or shutting down (503), or late (504).",
}


def document() -> dict[str, Any]:
    """``paths`` of the OpenAPI document."""
    return {
        "paths": {
            "/v1/responses": {"post": _operation("Answer Responses create-params.", _PARAMS)},
            "/v1/chat/completions": {"post": _operation("Answer a chat call, passed through to the upstream.", _CHAT)},
            "/v1/completions": {"post": _operation("Continue a prompt, passed through to the upstream.", _OBJECT)},
            "/v1/messages": {"post": _operation("Answer Anthropic Messages.", _MESSAGES)},
            "/v1/models": {"get": {"summary": "The served models.", "responses": {"200": _answer("A list.")}}},
            **{path: {"post": _operation("Handed on as it is.", _OBJECT)} for path in POSTED},
            **{
                path: {"get": {"summary": "Handed on as it is.", "responses": {"200": _answer("The engine's own.")}}}
                for path in READ
            },
        }
    }


def _operation(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": _answer("The answer; with `stream`, server-sent events.", events=True),
            **{status: _answer(text) for status, text in _ERRORS.items()},
        },
    }


def _answer(text: str, *, events: bool = False) -> dict[str, Any]:
    content = {"application/json": {"schema": _OBJECT}}
    if events:
        content["text/event-stream"] = {"schema": _STRING}
    return {"description": text, "content": content}
