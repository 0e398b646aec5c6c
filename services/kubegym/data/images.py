"""Images that rows name by a path: they lie below the dataset's folder, and are put into the row as data URIs.

Models take images as ``https://`` addresses or data URIs. A path is looked for where the dataset is: on this disk, in
its bucket, on its web server. Nothing outside of the dataset's folder is read: a dataset must not be able to send other
files of this machine to a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from kubegym.core.errors import InvalidSpec
from kubegym.core.messages import IMAGE_TYPES, Image, image_parts
from kubegym.data.dataset import DatasetSpec
from kubegym.data.sources import Location, OpenStore, default_store, locate
from kubegym.storage.options import StoreOptions
from kubegym.storage.web import WebClient

MARK = b'"input_image"'
"""Stands in the JSON of every row with images; most rows need not be looked at any further."""

MOST_BYTES = 20 << 20
"""Bytes of one image file, at most: what hosted models take."""

_ADDRESSES = ("https://", "http://", "data:image/")


class RowImages:
    """The images of a dataset's rows.

    Args:
        spec: of the dataset; None for rows given in Python, whose paths begin in the working directory.
        open_store: opens object stores; default ``kubegym.storage.open_store``.
    """

    def __init__(self, spec: DatasetSpec | None, open_store: OpenStore | None = None) -> None:
        self._options: StoreOptions | None = spec.store if spec else None
        endpoint = self._options.endpoint if self._options else None
        self._place = locate(spec.uri, spec.revision, endpoint) if spec else Location(Path("rows"))
        self._open_store = open_store or default_store

    def problem(self, row: Mapping[str, Any]) -> str | None:
        """Why an image of a checked row cannot be had, or None; what lies on other machines is not looked at."""
        for part in _images(row):
            url = part.get("image_url")
            if url is None:
                continue  # a file of the endpoint, by its id
            if not isinstance(url, str):
                return f"an image_url must be a string, not {url!r:.100}"
            if not url.startswith(_ADDRESSES) and (why := self._path_problem(url)) is not None:
                return f"image {url!r:.200}: {why}"
        return None

    async def inlined(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its images by path as data URIs; the same object where it has none.

        Raises:
            InvalidSpec: an image is not there any more, or is none.
            StoreError: the store or server does not answer.
        """
        paths = {
            url
            for part in _images(row)
            if isinstance(url := part.get("image_url"), str) and not url.startswith(_ADDRESSES)
        }
        if not paths:
            return row
        known = {path: (await self._image(path)).url for path in paths}
        params = row["responses_create_params"]
        items = [_replaced(item, known) for item in params["input"]]
        return {**row, "responses_create_params": {**params, "input": items}}

    async def _image(self, path: str) -> Image:
        if (why := self._path_problem(path)) is not None:
            raise InvalidSpec(f"image {path!r:.200}: {why}", reason="ImageNotFound")
        place, media_type = self._place, IMAGE_TYPES[PurePosixPath(path).suffix.lower()]
        if place.path is not None:
            return Image.of((place.path.parent / path).read_bytes(), media_type)
        if not place.key:
            return Image.of(await WebClient().read(place.url.rpartition("/")[0] + "/" + quote(path)), media_type)
        store = self._open_store(place.url, options=self._options)
        try:
            stored = await store.get(path)
        finally:
            await store.close()
        if stored is None:
            raise InvalidSpec(f"image {path!r:.200}: {place.url}/{path} does not exist", reason="ImageNotFound")
        return Image.of(stored.data, media_type)

    def _path_problem(self, path: str) -> str | None:
        parts = PurePosixPath(path)
        if "://" in path or path.startswith("data:"):
            return "an image is an https:// address, a data URI (data:image/...) or a path below the dataset's folder"
        if parts.is_absolute() or ".." in parts.parts:
            return "a path lies below the dataset's folder"
        if parts.suffix.lower() not in IMAGE_TYPES:
            return f"no image by its name ({', '.join(IMAGE_TYPES)})"
        if self._place.path is None:
            return None
        folder = self._place.path.parent
        file = folder / path
        if not file.is_file():
            return f"there is no {file}"
        if not file.resolve().is_relative_to(folder.resolve()):
            return "it leads out of the dataset's folder"
        size = file.stat().st_size
        return f"{size:,} bytes are more than {MOST_BYTES:,}" if size > MOST_BYTES else None


def _images(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    items = (row.get("responses_create_params") or {}).get("input")
    for item in items if isinstance(items, list) else ():
        yield from image_parts(item)


def _replaced(item: dict[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    if not image_parts(item):
        return item
    name = "output" if item.get("type") == "function_call_output" else "content"
    parts = [
        {**part, "image_url": known[part["image_url"]]} if part.get("image_url") in known else part
        for part in item[name]
    ]
    return {**item, name: parts}
