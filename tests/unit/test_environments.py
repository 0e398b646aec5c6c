"""Every environment that comes with KubeGym: complete, described, and shown at work in its README."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from kubegym.cli.listing import environment_facts, matches
from kubegym.cli.transcript import readme_block
from kubegym.core.spec import GymEnvironment, load_manifests
from kubegym.core.spec.traits import trait_problems
from kubegym.local.gaps import gaps
from kubegym.resources.loader import AvailableEnvironment
from kubegym.testing import play

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "environments").glob("*/app.py"))
SHOWN = re.compile(r"<!-- rollout (\d+) -->\n```\n(.*?)```\n<!-- /rollout -->", re.DOTALL)


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def declared(folder: Path) -> GymEnvironment:
    (environment,) = [one for one in load_manifests(folder / "environment.yaml") if isinstance(one, GymEnvironment)]
    return environment


def test_nothing_is_missing(folder: Path) -> None:
    assert gaps(folder) == []


def test_the_readme_shows_what_the_oracle_plays(folder: Path, request: pytest.FixtureRequest) -> None:
    readme = folder / "README.md"
    text = readme.read_text()
    shown = SHOWN.search(text)
    assert shown is not None, f"{readme} has no <!-- rollout N --> block; N is the row, from 0"
    row = json.loads((folder / "data/example.jsonl").read_text().splitlines()[int(shown.group(1))])
    environment = declared(folder)
    config = environment.spec.resources.config
    roles = [role for role in environment.spec.models if role != "policy"]
    played = play(folder, row, "oracle", config, models=dict.fromkeys(roles, "stand-in"))
    block = readme_block(played.row)
    if request.config.getoption("--update-golden"):
        readme.write_text(
            text.replace(shown.group(2), block)
            if shown.group(2)
            else text.replace(shown.group(0), shown.group(0).replace("```\n", f"```\n{block}", 1))
        )
        return
    assert shown.group(2) == block, f"{readme}: another rollout is shown; --update-golden writes it"


def test_made_rows_follow_from_count_and_seed(folder: Path) -> None:
    script = folder / "data/generate.py"
    if not script.is_file():
        pytest.skip("its rows are all written by hand")
    rows = runpy.run_path(str(script))["rows"]
    first, again, other = (list(rows(count=40, seed=seed)) for seed in (3, 3, 4))
    assert len(first) == 40
    assert first == again
    assert first != other


def test_the_list_knows_it_by_its_traits(folder: Path) -> None:
    traits = environment_facts(AvailableEnvironment(folder.name, folder))["traits"]
    assert traits == declared(folder).traits
    assert all(matches(traits, {trait: [words[0].upper()]}) for trait, words in traits.items())
    assert not matches(traits, {"domain": ["astrology"]})


@pytest.mark.parametrize(
    ("annotations", "says"),
    [
        ({}, "annotation kubegym.dev/rollout-structure is missing: one or more of single-turn"),
        ({"rollout-structure": "multi-tun"}, "unknown word 'multi-tun'; did you mean 'multi-turn'?"),
        ({"verification": "vibes"}, "unknown word 'vibes'; known: choice"),
        ({"chance": "low"}, "must be a number, not 'low'"),
        ({"license": "free (really)"}, "must be an SPDX expression"),
        ({"domain": "Math"}, "must be lower-case words joined by -, not 'Math'"),
    ],
)
def test_what_is_missing_or_misspelt_is_named(annotations: dict[str, str], says: str) -> None:
    named = {f"kubegym.dev/{trait}": text for trait, text in annotations.items()}
    environment = GymEnvironment.model_validate(
        {"apiVersion": "kubegym.dev/v1alpha1", "metadata": {"name": "x", "annotations": named}}
    )
    problems = trait_problems(environment)
    assert any(says in problem for problem in problems), problems
    assert problems[0].startswith("label app.kubernetes.io/version is missing")


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    found = "\n".join(gaps(tmp_path))
    assert all(part in found for part in ("environment.yaml", "example.jsonl", "tests", "README.md"))


def test_a_readme_must_state_the_chance_of_the_manifest(tmp_path: Path) -> None:
    source = ROOT / "environments/mcqa"
    (tmp_path / "environment.yaml").write_bytes((source / "environment.yaml").read_bytes())
    (tmp_path / "README.md").write_text("## A rollout\n\nChance level: 0.5, with two options.\n")
    assert f"{tmp_path / 'README.md'}: says chance level 0.5, environment.yaml says 0.25" in gaps(tmp_path)
