"""Finding and importing environments.

An environment is a folder with ``app.py``, or a class behind an entry point of the group ``kubegym.environments``.

A folder is imported as a package of its own, ``kubegym_env_<name>_<digest>``, and ``app`` is a module of it, so that
``from .grading import grade`` works. The digest covers the path and the sources: two folders never share a module, and
an edited one is imported anew. A finder on ``sys.meta_path`` knows which package is which folder; a child process of
``@offload`` gets the same table (``registered_folders``, ``register_folder``) before it unpickles anything, and so
imports the same modules by the same names.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from kubegym.core.errors import EnvironmentNotFound, InvalidSpec
from kubegym.resources.environment import Environment

ENTRY_POINT_GROUP = "kubegym.environments"
APP = "app.py"
_PACKAGE_PREFIX = "kubegym_env_"
_NOT_SOURCE = frozenset({"tests", "__pycache__", "node_modules", "venv"})
_folders: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class LoadedEnvironment:
    """An imported environment.

    Attributes:
        cls: the Environment subclass.
        name: the folder's or entry point's name.
        folder: where the code lies; None for an installed one.
        source_digest: digest over the Python sources, so that an edited verifier is told from the one before.
    """

    cls: type[Environment]
    name: str
    folder: Path | None
    source_digest: str


@dataclass(frozen=True, slots=True)
class AvailableEnvironment:
    """One that ``load_environment(name)`` would find. ``folder`` is None for an installed one."""

    name: str
    folder: Path | None


def load_environment(reference: str | Path) -> LoadedEnvironment:
    """Import an environment by its folder, or by name.

    A name is looked for in ``environments/`` of the working directory, among the installed entry points, and among the
    environments that come with KubeGym; ``-`` and ``_`` are the same.

    Raises:
        EnvironmentNotFound: there is none; names the closest ones.
        InvalidSpec: there is one that does not import (says file, line and reason) or is not exactly one environment.
    """
    folder = Path(reference)
    if (folder / APP).is_file():
        return _load_folder(folder)
    text = str(reference)
    if folder.is_dir():
        raise EnvironmentNotFound(f"{text} has no {APP}; an environment is a folder with an {APP}")
    if "/" in text or text.startswith("."):
        raise EnvironmentNotFound(f"{text} is no folder")
    for name, place in _candidates():
        if _same(name, text):
            return _load_folder(place) if isinstance(place, Path) else _load_entry_point(place)
    known = [name for name, _ in _candidates()]
    close = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(set(known))) or 'none'}"
    raise EnvironmentNotFound(f"no environment is called {text!r}; {hint}")


def available_environments() -> list[AvailableEnvironment]:
    """Every environment that a name finds, without importing any; sorted by name."""
    found: dict[str, AvailableEnvironment] = {}
    for name, place in _candidates():
        found.setdefault(name, AvailableEnvironment(name, place if isinstance(place, Path) else None))
    return [found[name] for name in sorted(found)]


def source_digest(folder: Path) -> str:
    """Digest over the folder's Python files, tests left out."""
    hasher = blake2b(digest_size=16)
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).parts
        if not any(part in _NOT_SOURCE or part.startswith(".") for part in parts[:-1]):
            hasher.update(f"{'/'.join(parts)}\0{file.stat().st_size}\0".encode())
            hasher.update(file.read_bytes())
    return hasher.hexdigest()


def registered_folders() -> dict[str, str]:
    """Package -> folder, for a process that is to import the same environments."""
    return dict(_folders)


def register_folder(package: str, folder: str) -> None:
    """Let ``import package`` mean this folder."""
    if not any(isinstance(finder, _FolderFinder) for finder in sys.meta_path):
        sys.meta_path.append(_FolderFinder())
    _folders[package] = folder


class _FolderFinder(MetaPathFinder):
    """Finds the packages of ``register_folder``; their modules are found by the normal path finder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder = _folders.get(fullname)
        if folder is None:
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [folder]
        return spec


def _candidates() -> Iterator[tuple[str, Path | EntryPoint]]:
    """Names and places, in the order in which a name is resolved."""
    yield from _folders_in(Path.cwd() / "environments")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        yield point.name, point
    package = Path(__file__).resolve().parents[1]
    yield from _folders_in(package / "_environments")
    if package.parent.name == "services":  # an editable install, or a checkout
        yield from _folders_in(package.parents[1] / "environments")


def _folders_in(place: Path) -> Iterator[tuple[str, Path]]:
    if place.is_dir():
        for folder in sorted(place.iterdir()):
            if (folder / APP).is_file():
                yield folder.name, folder


def _same(name: str, other: str) -> bool:
    return name.replace("-", "_") == other.replace("-", "_")


def _load_folder(folder: Path) -> LoadedEnvironment:
    folder = folder.resolve()
    digest = source_digest(folder)
    slug = re.sub(r"\W", "_", folder.name)
    identity = blake2b(f"{folder}\0{digest}".encode(), digest_size=6).hexdigest()
    package = f"{_PACKAGE_PREFIX}{slug}_{identity}"
    register_folder(package, str(folder))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(f"{package}.app")
    except (Exception, SystemExit) as error:  # a script's sys.exit() would end the run as if all were done
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]
        raise InvalidSpec(_import_problem(error, folder)) from error
    return LoadedEnvironment(_the_environment(module, folder / APP), folder.name, folder, digest)


def _load_entry_point(point: EntryPoint) -> LoadedEnvironment:
    try:
        target = point.load()
    except (Exception, SystemExit) as error:
        raise InvalidSpec(f"environment {point.name} ({point.value}) does not import: {error}") from error
    cls = _the_environment(target, point.value) if isinstance(target, ModuleType) else target
    if not _is_environment(cls):
        raise InvalidSpec(f"entry point {point.name} ({point.value}) is not an Environment subclass")
    return LoadedEnvironment(cls, point.name, None, _installed_digest(cls))


def _installed_digest(cls: type[Environment]) -> str:
    """Digest over the package of an installed environment, or over its one module."""
    file = Path(inspect.getfile(cls))
    if sys.modules[cls.__module__].__package__:
        return source_digest(file.parent)
    return blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _is_environment(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Environment) and value is not Environment


def _the_environment(module: ModuleType, where: object) -> type[Environment]:
    """``module.environment``, else the one Environment subclass the module defines."""
    named = getattr(module, "environment", None)
    if isinstance(named, type) and issubclass(named, Environment):
        return named
    defined = [
        value
        for name, value in vars(module).items()
        if _is_environment(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    if len(defined) == 1:
        return defined[0]  # type: ignore[no-any-return]
    if not defined:
        raise InvalidSpec(f"{where} defines no Environment subclass")
    names = ", ".join(cls.__name__ for cls in defined)
    raise InvalidSpec(
        f"{where} defines several environments ({names}); set `environment = {defined[-1].__name__}` to choose"
    )


def _import_problem(error: BaseException, folder: Path) -> str:
    """File, line and reason, for a person who wrote the file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {error.msg}"
    inside = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(folder)
    ]
    place = f"{inside[-1].filename}:{inside[-1].lineno}" if inside else str(folder / APP)
    if isinstance(error, ModuleNotFoundError):
        return f"{place}: needs the module {error.name!r}, which is not installed"
    return f"{place}: {type(error).__name__}: {error}"
