"""``kubegym gc``: free what dead workers left in a run's output."""

from __future__ import annotations

from typing import Annotated

import typer

from kubegym.cli.errors import guarded, print_json
from kubegym.cli.locate import locate

SHOWN = 20


def gc(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder, URI or name.")],
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without it they are only named.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find files of a run that no reader ever sees, left by workers that died, and delete them. Safe while it runs."""

    def work() -> int:
        import asyncio

        return asyncio.run(_gc(locate(run), delete, as_json))

    raise typer.Exit(guarded(work, as_json=as_json))


async def _gc(place: str, delete: bool, as_json: bool) -> int:
    from kubegym.rollout.garbage import garbage
    from kubegym.storage import open_store

    store = open_store(place)
    try:
        keys = await garbage(store)
        for key in keys if delete else ():
            await store.delete(key)
    finally:
        await store.close()
    if as_json:
        print_json({"run": place, "unreachable": keys, "deleted": delete})
        return 0
    for key in keys[:SHOWN]:
        print(f"  {key}")
    more = f" ({len(keys) - SHOWN:,} more)" if len(keys) > SHOWN else ""
    hint = "" if delete or not keys else "; --delete removes them"
    print(f"{len(keys):,} unreachable parts in {place}{more}" + (", deleted" if delete and keys else hint))
    return 0
