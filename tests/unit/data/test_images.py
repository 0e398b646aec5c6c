"""Images that rows name by a path."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from kubegym import Image, Message
from kubegym.core.errors import InvalidSpec
from kubegym.data.dataset import DatasetSpec
from kubegym.data.images import RowImages
from kubegym.storage import open_store

pytestmark = pytest.mark.unit

PNG = b"\x89PNG\r\n\x1a\n"
DATA = Image.of(PNG).url


def row(*urls: Any) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": "?"}, *({"type": "input_image", "image_url": url} for url in urls)]
    return {"responses_create_params": {"input": [{"role": "user", "content": parts}]}, "n": 1}


def urls_of(one: dict[str, Any]) -> list[str]:
    content = one["responses_create_params"]["input"][0]["content"]
    return [part["image_url"] for part in content if part["type"] == "input_image"]


@pytest.fixture
def images(tmp_path: Path) -> RowImages:
    (tmp_path / "secret.png").write_bytes(PNG)
    folder = tmp_path / "rows"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "a.PNG").write_bytes(PNG)
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "large.png").touch()
    with (folder / "large.png").open("r+b") as file:
        file.truncate((20 << 20) + 1)
    return RowImages(DatasetSpec(str(folder / "rows.jsonl")))


async def test_paths_become_data_and_the_row_stays_as_it_is(images: RowImages) -> None:
    given = row("pictures/a.PNG", "https://example.com/x.png", "data:image/gif;base64,AA==", "pictures/a.PNG")
    before = urls_of(given)
    assert images.problem(given) is None
    read = await images.inlined(given)
    assert urls_of(read) == [DATA, "https://example.com/x.png", "data:image/gif;base64,AA==", DATA]
    assert read["n"] == 1
    assert urls_of(given) == before
    for one in (row("https://example.com/x.png"), {"responses_create_params": {"input": "text"}}):
        assert images.problem(one) is None
        assert await images.inlined(one) is one


async def test_images_of_earlier_tool_outputs_are_read_too(images: RowImages) -> None:
    output = [{"type": "input_image", "image_url": "pictures/a.PNG", "detail": "low"}]
    item = {"type": "function_call_output", "call_id": "c", "output": output}
    read = await images.inlined({"responses_create_params": {"input": [item]}})
    assert read["responses_create_params"]["input"][0]["output"] == [Image(DATA, "low").to_part()]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nothing.png", "there is no "),
        ("../secret.png", "lies below the dataset's folder"),
        ("/etc/hosts.png", "lies below the dataset's folder"),
        ("pictures/../../secret.png", "lies below the dataset's folder"),
        ("out.png", "leads out of the dataset's folder"),
        ("rows.jsonl", "no image by its name"),
        ("large.png", "20,971,521 bytes are more than 20,971,520"),
        ("file:///etc/hosts.png", "an image is an https:// address"),
        ("data:text/plain,x", "an image is an https:// address"),
        (7, "must be a string"),
    ],
)
async def test_what_is_no_image_of_the_dataset_is_refused(images: RowImages, url: Any, why: str) -> None:
    problem = images.problem(row(url))
    assert problem is not None
    assert why in problem
    if isinstance(url, str):
        with pytest.raises(InvalidSpec, match=why.replace("(", r"\(")):
            await images.inlined(row(url))


async def test_images_in_a_store_lie_beside_the_rows() -> None:
    folder = f"memory://{uuid.uuid4().hex}/data"
    store = open_store(folder)
    await store.create("pictures/a.png", PNG)
    images = RowImages(DatasetSpec(f"{folder}/rows.jsonl"))
    assert images.problem(row("pictures/a.png")) is None
    assert urls_of(await images.inlined(row("pictures/a.png"))) == [DATA]
    with pytest.raises(InvalidSpec, match=r"data/pictures/b.png does not exist"):
        await images.inlined(row("pictures/b.png"))


def test_an_image_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(PNG)
    assert Image.read(tmp_path / "a.jpeg").url == DATA.replace("png", "jpeg")
    with pytest.raises(ValueError, match="no image by its name"):
        Image.read(tmp_path / "a.txt")
    assert Message.user("see", Image(DATA)).content == [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": DATA},
    ]
