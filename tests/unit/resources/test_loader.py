"""Finding and importing environments, and what is said when that fails."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from kubegym.core.errors import EnvironmentNotFound, InvalidSpec
from kubegym.resources import available_environments, load_environment, loader

APP = """
    from kubegym import Environment, Verdict
    from .words import REWARD

    class Base(Environment):
        pass

    class One(Base):
        def verify(self, rollout):
            return Verdict(REWARD)

    environment = One
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the environments they write, not those of the repository or of what is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loader, "entry_points", lambda group: [])
    monkeypatch.setattr(loader, "__file__", str(tmp_path / "site-packages" / "kubegym" / "resources" / "loader.py"))


def test_a_folder_with_modules_of_its_own(folder: Any) -> None:
    place = folder(APP, "my-env", words="REWARD = 0.5")
    loaded = load_environment(place)
    assert (loaded.cls.__name__, loaded.name, loaded.folder) == ("One", "my-env", place)
    assert load_environment(str(place)).cls is loaded.cls
    assert loaded.cls.__module__.startswith("kubegym_env_my_env_")
    assert sys.modules[loaded.cls.__module__].REWARD == 0.5


def test_an_edited_source_is_imported_anew(folder: Any) -> None:
    before = load_environment(folder(APP, words="REWARD = 0.5"))
    after = load_environment(folder(APP, words="REWARD = 1.0"))
    assert before.source_digest != after.source_digest
    assert before.cls is not after.cls
    assert sys.modules[after.cls.__module__].REWARD == 1.0


def test_the_digest_covers_sources_and_not_tests(folder: Any) -> None:
    place = folder(APP, words="REWARD = 0.5")
    digest = loader.source_digest(place)
    for ignored in ("tests", "__pycache__", ".venv"):
        (place / ignored).mkdir()
        (place / ignored / "x.py").write_text("x")
    (place / "README.md").write_text("x")
    assert loader.source_digest(place) == digest
    (place / "sub").mkdir()
    (place / "sub" / "x.py").write_text("x")
    assert loader.source_digest(place) != digest


def test_names(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(APP, "environments/my_env", words="REWARD = 1")
    folder(APP, "site-packages/kubegym/_environments/my_env", words="REWARD = 2")
    built_in = folder(APP, "site-packages/kubegym/_environments/other", words="REWARD = 3")
    point = EntryPoint("installed", "kubegym.resources:Environment", loader.ENTRY_POINT_GROUP)
    monkeypatch.setattr(loader, "entry_points", lambda group: [point])
    assert load_environment("my-env").folder == place
    assert load_environment("other").folder == built_in
    assert [(one.name, one.folder) for one in available_environments()] == [
        ("installed", None),
        ("my_env", place),
        ("other", built_in),
    ]
    with pytest.raises(InvalidSpec, match=r"installed .* is not an Environment subclass"):
        load_environment("installed")


def test_an_entry_point_to_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("counter", "contract.environment.worlds:Counter", loader.ENTRY_POINT_GROUP)
    broken = EntryPoint("broken", "no_such_module:X", loader.ENTRY_POINT_GROUP)
    monkeypatch.setattr(loader, "entry_points", lambda group: [point, broken])
    loaded = load_environment("counter")
    assert (loaded.cls.__name__, loaded.folder) == ("Counter", None)
    with pytest.raises(InvalidSpec, match=r"broken .* does not import: No module named 'no_such_module'"):
        load_environment("broken")


def test_what_is_not_there(folder: Any, tmp_path: Path) -> None:
    folder(APP, "environments/arithmetic", words="REWARD = 1")
    (tmp_path / "empty").mkdir()
    for reference, says in (
        ("arithmetik", "no environment is called 'arithmetik'; did you mean arithmetic?"),
        ("zzz", "no environment is called 'zzz'; known: arithmetic"),
        ("./nowhere", "./nowhere is no folder"),
        ("empty", "empty has no app.py; an environment is a folder with an app.py"),
    ):
        with pytest.raises(EnvironmentNotFound, match=re.escape(says)):
            load_environment(reference)


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("import kubegym\n\ndef f(:\n", "app.py:3: invalid syntax"),
        ("\nx = 1 / 0\n", "app.py:2: ZeroDivisionError: division by zero"),
        ("\n\nimport no_such_module\n", "app.py:3: needs the module 'no_such_module', which is not installed"),
        ("from . import words\n", "words.py:2: KeyError: 'lost'"),
        (
            "from kubegym import tool\n\n@tool\ndef verify(): ...\n",
            "app.py:3: ValueError: tool name 'verify' is reserved",
        ),
        ("from kubegym import Environment\n", "app.py defines no Environment subclass"),
        (
            "from kubegym import Environment\nclass A(Environment): ...\nclass B(Environment): ...\n",
            "app.py defines several environments (A, B); set `environment = B` to choose",
        ),
    ],
)
def test_what_does_not_import(folder: Any, app: str, says: str) -> None:
    place = folder(app, words="\n{}['lost']\n")
    with pytest.raises(InvalidSpec) as caught:
        load_environment(place)
    assert says in caught.value.message
    assert caught.value.message.startswith(str(place))


def test_a_repaired_folder_imports(folder: Any) -> None:
    with pytest.raises(InvalidSpec):
        load_environment(folder("from .words import missing", words="present = 1"))
    assert load_environment(folder(APP, words="REWARD = 1.0")).cls.__name__ == "One"
