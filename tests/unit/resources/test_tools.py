"""Tool definitions from types and docstrings, argument checks, outputs, and rows that bring their own tools."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kubegym import Environment, tool
from kubegym.resources.tools import (
    RESERVED_NAMES,
    ToolSet,
    cut,
    output_text,
    parse_docstring,
    tools_of,
    validation_detail,
)


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid")

    x: int
    title: str = Field(title="A title", description="What it is called")


class Shapes(Environment):
    @tool
    def draw(
        self,
        where: Point,
        colour: Literal["red", "blue"],
        copy: Annotated[int, Field(ge=1, description="how many")] = 1,
        _hidden: str | None = None,
    ) -> str:
        """Draw a point.

        It takes several lines to say how.

        Args:
            where: the place,
                as a point.
            colour (str): what it looks like.
            copy: not this text, the annotation has one.

        Returns:
            Something: that is not an argument.
        """
        return f"{where.x} {colour} {copy} {_hidden}"

    @tool(name="line-2", parallel=True)
    def line(self, points: list[Point]) -> int:
        """Draw a line."""
        return len(points)

    @tool
    def nothing(self) -> None:
        pass


TOOLS = tools_of(Shapes)


def test_definition() -> None:
    point = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"x": {"type": "integer"}, "title": {"type": "string", "description": "What it is called"}},
        "required": ["x", "title"],
    }
    assert TOOLS.definitions[0] == {
        "type": "function",
        "name": "draw",
        "description": "Draw a point.\n\nIt takes several lines to say how.",
        "parameters": {
            "type": "object",
            "properties": {
                "where": {"$ref": "#/$defs/Point", "description": "the place, as a point."},
                "colour": {"type": "string", "enum": ["red", "blue"], "description": "what it looks like."},
                "copy": {"type": "integer", "minimum": 1, "default": 1, "description": "how many"},
                "_hidden": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            },
            "required": ["where", "colour"],
            "additionalProperties": False,
            "$defs": {"Point": point},
        },
        "strict": False,
    }
    assert TOOLS.definitions[2] == {
        "type": "function",
        "name": "nothing",
        "description": "",
        "parameters": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        "strict": True,
    }


def test_strict_where_every_object_is_closed() -> None:
    assert TOOLS.by_name["line-2"].definition is not None
    assert TOOLS.by_name["line-2"].definition["strict"] is True

    class Open(Environment):
        @tool
        def take(self, anything: dict[str, int]) -> None: ...

        @tool
        def whatever(self, anything: Any) -> None: ...

    assert [definition["strict"] for definition in tools_of(Open).definitions] == [False, False]


def test_arguments_become_typed_keywords() -> None:
    draw = TOOLS.by_name["draw"]
    keywords = draw.validate({"where": {"x": "3", "title": "t"}, "colour": "red", "_hidden": "h", "unknown": 1})
    assert keywords == {"where": Point(x=3, title="t"), "colour": "red", "copy": 1, "_hidden": "h"}
    assert Shapes.draw(Shapes(), **keywords) == "3 red 1 h"
    with pytest.raises(ValidationError) as caught:
        draw.validate({"where": {"x": 1, "title": "t"}, "colour": "green", "copy": 0})
    assert json.loads(validation_detail(caught.value)) == {
        "detail": [
            {
                "type": "literal_error",
                "loc": ["body", "colour"],
                "msg": "Input should be 'red' or 'blue'",
                "input": "green",
            },
            {
                "type": "greater_than_equal",
                "loc": ["body", "copy"],
                "msg": "Input should be greater than or equal to 1",
                "input": 0,
            },
        ]
    }


def test_inherited_tools_can_be_replaced_and_removed() -> None:
    class More(Shapes):
        @tool
        def line(self, length: int) -> int:
            return length

        nothing = None  # type: ignore[assignment]

    assert list(tools_of(More).by_name) == ["draw", "line"]
    assert list(TOOLS.by_name) == ["draw", "line-2", "nothing"]


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_names(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        tool(name=name)(lambda self: None)


@pytest.mark.parametrize("name", ["two words", "x" * 65, "ä", "a.b"])
def test_names_that_models_cannot_call(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        tool(name=name)(lambda self: None)


def test_methods_that_cannot_be_tools() -> None:
    class Star(Environment):
        @tool
        def f(self, *args: int) -> None: ...

    class Twice(Environment):
        @tool
        def f(self) -> None: ...

        @tool(name="f")
        def g(self) -> None: ...

    class All(Environment):
        @tool(catch_all=True)
        def f(self, name: str, arguments: Any) -> None: ...

        @tool(catch_all=True)
        def g(self, name: str, arguments: Any) -> None: ...

    for cls, text in ((Star, "parameters are named"), (Twice, "two tools named 'f'"), (All, "two catch-all")):
        with pytest.raises(TypeError, match=text):
            tools_of(cls)


def test_docstrings() -> None:
    text = "Do it.\n\nArguments:\n  a: one\n    two: three\n  *b (int | None): four\n\n  c:\n    five\nRaises:\n  d: no"
    assert parse_docstring(text) == ("Do it.", {"a": "one two: three", "b": "four", "c": "five"})
    assert parse_docstring("") == ("", {})
    assert parse_docstring("Args:\n  a: only") == ("", {"a": "only"})


def test_outputs() -> None:
    assert output_text({"b": {1}, 2: Point(x=1, title="t")}) == '{"b":[1],"2":{"x":1,"title":"t"}}'
    assert output_text(float("nan")) == "null"
    assert output_text([2**64, "\ud800"]) == '[18446744073709551616,"?"]'
    assert output_text("ä\udfff") == "ä?"
    with pytest.raises(TypeError, match="text or JSON; object is neither"):
        output_text({"x": object()})
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "abc\n[output cut: 4 characters, only the first 3 are shown]"


def offer(name: Any, *properties: str, kind: str = "function") -> dict[str, Any]:
    return {"type": kind, "name": name, "parameters": {"properties": {one: {} for one in properties}}}


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([], None),
        ([offer("draw", "where", "colour"), offer("nothing")], None),
        ([{"type": "function", "name": "nothing"}], None),
        ([offer("search", kind="web_search")], None),
        (
            [offer("nothing"), offer("fly")],
            "tools[1]: the environment has no tool 'fly' (tools: draw, line-2, nothing)",
        ),
        ([offer(["nothing"])], "tools[0]: the environment has no tool ['nothing'] (tools: draw, line-2, nothing)"),
        ([offer("draw", "where")], "tools[0] (draw): lacks the required parameter 'colour'"),
        ([offer("nothing", "x")], "tools[0] (nothing): no parameter 'x' (parameters: none)"),
        ([{"type": "function", "name": "draw", "parameters": 3}], "tools[0] (draw): parameters is not a JSON schema"),
        (["draw"], "tools[0] is not an object"),
    ],
)
def test_a_rows_own_tools(tools: list[Any], problem: str | None) -> None:
    assert TOOLS.check_row_tools(tools) == problem


def test_a_catch_all_takes_every_name() -> None:
    class Whatever(Environment):
        @tool(catch_all=True)
        def any_tool(self, name: str, arguments: dict[str, Any]) -> str:
            return name

    tools: ToolSet = tools_of(Whatever)
    assert tools.check_row_tools([offer("fly", "x")]) is None
    assert tools.check_row_tools([offer(3)]) is not None
