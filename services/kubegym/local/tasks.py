"""The rows of a local run: opened, validated before anything runs, routed, read by position."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from kubegym.core.errors import InvalidRows, InvalidSpec
from kubegym.core.ids import task_id
from kubegym.data.dataset import Dataset, DatasetSpec, MemoryDataset, open_dataset
from kubegym.data.images import MARK, RowImages
from kubegym.data.route import agent_claims, route
from kubegym.data.rowcheck import agent_name
from kubegym.data.validate import Progress, validate
from kubegym.local.episodes import LocalEpisodes
from kubegym.local.fit import Needs
from kubegym.local.runspec import Entry, RunSpec, store_options
from kubegym.rollout import TaskRow


class RunTasks:
    """Implements ``rollout.TaskSource`` over the datasets of a run's entries.

    Images that a row names by a path are in the row that a task gets; the task's id is that of the row as it stands.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        images: Mapping[str, RowImages],
        claims: Mapping[str, str],
        names: Mapping[str, str],
    ) -> None:
        self.datasets = datasets
        self._images = images
        self._claims = claims
        self._names = names

    async def tasks(self, environment: str, first_row: int, count: int) -> list[TaskRow]:
        """``count`` tasks of an entry's dataset from ``first_row``."""
        tasks: list[TaskRow] = []
        for line in await self.datasets[environment].read(first_row, count):
            row: dict[str, Any] = orjson.loads(line)
            entry = route(agent_name(row), environment, self._claims)
            if entry is None:
                raise InvalidSpec(f"row {first_row + len(tasks)} of {environment} belongs to no environment")
            identity = task_id(self._names[entry], row)
            if MARK in line:
                row = await self._images[environment].inlined(row)
            tasks.append(TaskRow(entry, row, identity))
        return tasks

    async def validate(
        self, episodes: LocalEpisodes, progress: Progress | None = None, shown: int = InvalidRows.SHOWN
    ) -> Needs:
        """Check every row, and tell what they need of a model.

        Raises:
            InvalidRows: with line and reason of the first ``shown`` bad rows.
        """
        checks = {name: part.runtime.validate_row for name, part in episodes.parts.items()}
        datasets = list(self.datasets.items())
        needs = Needs()

        def look(home: str, entry: str, place: str, line: bytes, row: dict[str, Any]) -> str | None:
            if MARK in line:
                if (problem := self._images[home].problem(row)) is not None:
                    return problem
                needs.note_image(entry, place)
            return needs.note_context(entry, row, place)

        await validate(datasets, self._claims, lambda entry, row: checks[entry](row), progress, shown, look)
        return needs

    async def close(self) -> None:
        """Close the datasets."""
        for dataset in self.datasets.values():
            await dataset.close()


async def open_tasks(
    spec: RunSpec, episodes: LocalEpisodes, rows: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
) -> RunTasks:
    """Open the datasets of a run.

    Args:
        spec: the run.
        episodes: its environments, for their bundled rows and names.
        rows: rows given in Python, by entry.

    Raises:
        InvalidSpec: a dataset is missing or not the one that was pinned.
    """
    datasets: dict[str, Dataset] = {}
    images: dict[str, RowImages] = {}
    for entry in spec.entries:
        if rows is not None and entry.name in rows:
            limit = entry.dataset.limit if entry.dataset else None
            datasets[entry.name] = MemoryDataset(rows[entry.name], source=entry.name, limit=limit)
            images[entry.name] = RowImages(None)
        else:
            dataset = _dataset_spec(entry, episodes)
            datasets[entry.name] = await open_dataset(dataset, scratch=Path(tempfile.gettempdir()))
            images[entry.name] = RowImages(dataset)
    claims = agent_claims((entry.name, entry.agent_refs) for entry in spec.entries)
    return RunTasks(datasets, images, claims, {name: part.info.name for name, part in episodes.parts.items()})


def _dataset_spec(entry: Entry, episodes: LocalEpisodes) -> DatasetSpec:
    dataset = entry.dataset
    if dataset is None:
        raise InvalidSpec(f"{entry.name}: no dataset; give --dataset FILE, or rows")
    uri = dataset.uri
    if uri == BUNDLED:
        uri = str(bundled_rows(episodes, entry))
    return DatasetSpec(
        uri=uri,
        format=dataset.format,  # type: ignore[arg-type]  # checked by the manifest's type and by open_dataset
        sha256=dataset.sha256,
        offset=dataset.offset,
        limit=dataset.limit,
        shuffle_seed=dataset.shuffle_seed,
        revision=dataset.revision,
        store=store_options(dataset.endpoint, dataset.region, dataset.credentials, dataset.ca_bundle),
    )


BUNDLED = "bundled:"
"""The environment's own ``data/example.jsonl``."""

GIVEN = "given:"
"""Rows handed over in Python."""


def bundled_rows(episodes: LocalEpisodes, entry: Entry) -> Path:
    """The example rows that lie beside an environment's code."""
    import inspect

    loaded = episodes.parts[entry.name].loaded
    folder = loaded.folder or Path(inspect.getfile(loaded.cls)).parent
    path = folder / "data" / "example.jsonl"
    if not path.is_file():
        raise InvalidSpec(f"{entry.name}: no rows: {path} does not exist; give a dataset")
    return path
