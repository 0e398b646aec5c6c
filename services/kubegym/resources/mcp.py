"""The tools over MCP: Streamable HTTP, stateless, one JSON reply a request (contract 1.5).

A harness that speaks MCP learns the endpoint and a token from ``/seed_session``. A small JSON-RPC handler does: there
are no streams, no notifications of ours, no sessions but those of the rollouts.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from kubegym.core.errors import RolloutError
from kubegym.core.messages import ToolOutput, parts_text
from kubegym.http.server import Reply

TOKEN_HEADER = b"x-nemo-gym-session-token"
PATH = "/mcp"

PROTOCOLS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Newest first."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, NO_SESSION = -32700, -32600, -32601, -32602, -32001

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """What one caller may use.

    Attributes:
        definitions: Responses tool definitions.
        call: runs a tool by name and gives its output and status; None without a session. Raises RolloutError.
        allows: whether a name may be called.
    """

    definitions: list[dict[str, Any]]
    call: Callable[[str, dict[str, Any]], Awaitable[tuple[ToolOutput, int]]] | None
    allows: Callable[[str], bool]


def server_name(environment: str) -> str:
    """The MCP server's name, which harnesses put before the tools' as ``mcp__<server>__<tool>``."""
    return _NOT_IN_NAMES.sub("_", environment)


def seed_part(name: str, token: bytes) -> dict[str, Any]:
    """What ``/seed_session`` says of it."""
    headers = {"X-NeMo-Gym-Session-Token": token.decode()}
    return {"server_name": name, "url_path": PATH, "transport": "http", "headers": headers}


def row_tools(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The functions that a row itself offers."""
    offered = row["responses_create_params"].get("tools")
    return [
        tool
        for tool in (offered if isinstance(offered, list) else ())
        if isinstance(tool, dict) and tool.get("type", "function") == "function" and isinstance(tool.get("name"), str)
    ]


def row_tool_names(row: Mapping[str, Any]) -> list[str] | None:
    """What a rollout may call; None where its row leaves that to the environment."""
    return None if row["responses_create_params"].get("tools") is None else [tool["name"] for tool in row_tools(row)]


async def answer(body: bytes, name: str, version: str, offered: OfferedTools) -> Reply:
    """Answer a POST to the endpoint.

    Args:
        body: a JSON-RPC message, or a list of them.
        name: the server's.
        version: the environment's.
        offered: what the caller may use.
    """
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return Reply.json(_error(None, PARSE_ERROR, f"not JSON: {error}"), 400)
    if isinstance(message, list):
        answers = [reply for one in message if (reply := await _one(one, name, version, offered)) is not None]
        return Reply.json(answers) if answers else Reply(status=202)
    reply = await _one(message, name, version, offered)
    if reply is None:
        return Reply(status=202)
    return Reply.json(reply, 400 if reply.get("error", {}).get("code") == INVALID_REQUEST else 200)


async def _one(message: object, name: str, version: str, offered: OfferedTools) -> dict[str, Any] | None:
    """The reply to one message; None for a notification or somebody's answer."""
    if not isinstance(message, dict):
        return _error(None, INVALID_REQUEST, "a message is an object")
    method, identity = message.get("method"), message.get("id")
    if not isinstance(method, str):
        return None if "result" in message or "error" in message else _error(identity, INVALID_REQUEST, "no method")
    if "id" not in message:
        return None
    params = message.get("params") or {}
    if not isinstance(params, dict):
        return _error(identity, INVALID_PARAMS, "params is an object")
    match method:
        case "initialize":
            return _result(identity, _initialized(params, name, version))
        case "ping":
            return _result(identity, {})
        case "tools/list":
            return _result(identity, {"tools": [_listed(definition) for definition in offered.definitions]})
        case "tools/call":
            return await _called(identity, params, offered)
    return _error(identity, METHOD_NOT_FOUND, f"no method {method!r:.100}")


def _initialized(params: dict[str, Any], name: str, version: str) -> dict[str, Any]:
    asked = params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in PROTOCOLS else PROTOCOLS[0],
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": name, "version": version},
    }


def _listed(definition: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": definition["name"],
        "description": definition.get("description") or "",
        "inputSchema": definition.get("parameters") or {"type": "object", "properties": {}},
    }


async def _called(identity: Any, params: dict[str, Any], offered: OfferedTools) -> dict[str, Any]:
    tool, arguments = params.get("name"), params.get("arguments")
    if not isinstance(tool, str) or not isinstance(arguments, dict | None):
        return _error(identity, INVALID_PARAMS, "tools/call needs a name, and arguments as an object")
    if offered.call is None:
        return _error(identity, NO_SESSION, "tools/call needs the header X-NeMo-Gym-Session-Token of /seed_session")
    if not offered.allows(tool):
        known = ", ".join(definition["name"] for definition in offered.definitions) or "none"
        return _result(identity, _content(f"Unknown tool: {tool}. Tools: {known}", is_error=True))
    try:
        text, status = await offered.call(tool, arguments or {})
    except RolloutError as error:
        text, status = error.message, 500
    if status != 200:
        return _result(identity, _content(f"HTTP {status} from POST /{tool}: {text}", is_error=True))
    content = _content(text)
    if isinstance(text, str) and text.startswith("{"):
        with suppress(orjson.JSONDecodeError):  # text that only looks like an object
            content["structuredContent"] = orjson.loads(text)
    return _result(identity, content)


def _content(text: ToolOutput, *, is_error: bool = False) -> dict[str, Any]:
    if isinstance(text, list):
        return {"content": [_block(part) for part in text], "isError": is_error}
    text = text if text.isascii() else text.encode(errors="replace").decode()
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


def _block(part: dict[str, Any]) -> dict[str, Any]:
    """A content part in MCP's words; an image on a web server as its address."""
    if part.get("type") != "input_image":
        return {"type": "text", "text": parts_text([part])}
    head, _, data = str(part["image_url"]).partition(";base64,")
    if not head.startswith("data:"):
        return {"type": "text", "text": part["image_url"]}
    return {"type": "image", "data": data, "mimeType": head.removeprefix("data:")}


def _result(identity: Any, result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "result": result}


def _error(identity: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": message}}
