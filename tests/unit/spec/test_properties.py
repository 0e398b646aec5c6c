"""Whatever is read, the answer is manifests or a list of problems."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubegym.core.spec import API_VERSION, GymEnvironment, InvalidManifests, RolloutJob, manifest_from, parse_manifests

pytestmark = pytest.mark.unit

FIELDS = (
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "spec",
    "models",
    "policy",
    "server",
    "environments",
    "dataset",
    "<<",
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(FIELDS)
trees = st.recursive(
    scalars,
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | scalars, children, max_size=4)
    ),
    max_leaves=12,
)
fragments = st.lists(
    st.sampled_from(
        [*FIELDS, ": ", "\n", "  ", "- ", "{", "}", "[", "]", "&a ", "*a", "!!map ", "---\n", '"', "# ", "|\n", "1"]
    ),
    max_size=24,
).map("".join)


@given(fragments | st.text(max_size=40) | st.binary(max_size=40))
def test_any_text_gives_manifests_or_problems(text: str | bytes) -> None:
    with contextlib.suppress(InvalidManifests):
        assert parse_manifests(text, "any")


@given(st.sampled_from([GymEnvironment, RolloutJob]), trees, trees)
def test_any_tree_gives_a_manifest_or_problems(model: type[Any], metadata: Any, spec: Any) -> None:
    value = {"apiVersion": API_VERSION, "kind": model.__name__, "metadata": metadata, "spec": spec}
    with contextlib.suppress(InvalidManifests):
        manifest_from(value, "any")
    with contextlib.suppress(InvalidManifests):
        parse_manifests(yaml.safe_dump(value), "any")


@given(
    rollouts=st.integers(1, 100_000),
    temperature=st.none() | st.decimals(0, 2, places=2).map(str),
    seed=st.none() | st.integers(0, 2**63 - 1),
    weights=st.lists(st.integers(1, 1_000_000), min_size=1, max_size=4),
)
def test_what_is_written_is_read_again(
    rollouts: int, temperature: str | None, seed: int | None, weights: list[int]
) -> None:
    entries = [
        {"name": f"e{i}", "environmentRef": {"name": "a"}, "dataset": {"bundled": {}}, "weight": weight}
        for i, weight in enumerate(weights)
    ]
    spec = {"environments": entries, "rolloutsPerTask": rollouts, "output": {"uri": "s3://b/x"}}
    value = {"apiVersion": API_VERSION, "kind": "RolloutJob", "metadata": {"name": "j"}, "spec": spec}
    job = manifest_from(value, "once")
    assert isinstance(job, RolloutJob)
    sampled = job.model_copy(
        update={
            "spec": job.spec.model_copy(
                update={"sampling": type(job.spec.sampling)(temperature=temperature, seed=seed)}
            )
        }
    )
    text = yaml.safe_dump(sampled.model_dump(by_alias=True, exclude_none=True, mode="json"))
    assert parse_manifests(text, "again") == [sampled]
