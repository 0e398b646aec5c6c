import pytest

from kubegym.core.errors import InvalidSpec
from kubegym.data.route import agent_claims, route

CLAIMS = agent_claims([("math", ["math_agent", "algebra_agent"]), ("code", ["code_agent"]), ("open", [])])


@pytest.mark.parametrize(
    ("agent", "home", "wanted"),
    [
        ("math_agent", "math", "math"),
        ("algebra_agent", "code", "math"),
        ("code_agent", "open", "code"),
        (None, "open", "open"),
        ("nobody", "open", "open"),
        (None, "math", None),
        ("nobody", "math", None),
    ],
)
def test_where_a_row_goes(agent: str | None, home: str, wanted: str | None) -> None:
    assert route(agent, home, CLAIMS) == wanted


def test_one_entry_without_claims_takes_everything() -> None:
    assert route("any_agent", "only", {}) == "only"


def test_an_agent_has_one_entry() -> None:
    with pytest.raises(InvalidSpec, match="'a' and 'b' both claim agentRefs 'x'"):
        agent_claims([("a", ["x"]), ("b", ["x"])])
    assert agent_claims([("a", ["x", "x"])]) == {"x": "a"}
