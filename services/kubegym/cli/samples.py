"""``kubegym samples``: the token data of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubegym.cli.errors import guarded, print_json
from kubegym.cli.locate import locate
from kubegym.core.errors import InputError, InvalidSpec

if TYPE_CHECKING:
    import pyarrow

SHOWN = 50


def samples(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder, URI or name.")],
    rollout: Annotated[
        str | None, typer.Option("--rollout", metavar="ID", help="Only the samples of this rollout, token by token.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write all to one .arrow or .parquet file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the trainable token sequences of a run that was made with `--tokens samples`."""

    def work() -> int:
        import asyncio

        if output is not None and output.suffix not in (".arrow", ".parquet"):
            raise InvalidSpec(f"--output {output}: the name ends with .arrow or .parquet")
        place = locate(run)
        return asyncio.run(_write(place, output) if output else _show(place, rollout, as_json))

    raise typer.Exit(guarded(work, as_json=as_json))


async def _show(place: str, rollout: str | None, as_json: bool) -> int:
    from kubegym.local.results import read_samples

    table = await read_samples(place)
    if rollout is not None:
        table = _of(table, rollout, place)
    if rollout is not None or as_json:
        print_json(table.to_pylist())
        return 0
    if not table.num_rows:
        print(f"{place} has no token data; a run with --tokens samples keeps it, if the model tells token ids")
        return 0
    from kubegym.cli.tables import print_table

    facts = [_facts(row) for row in table.slice(0, SHOWN).to_pylist()]
    print_table(["rollout", "sample", "tokens", "trained", "versions", "outcome", "reward"], facts, sys.stdout, left=1)
    import pyarrow.compute as pc

    tokens = pc.sum(pc.list_value_length(table["token_ids"])).as_py()
    rewritten = table.num_rows - len(table["rollout_id"].unique())
    print(f"\n{table.num_rows:,} samples, {tokens:,} tokens; histories rewritten {rewritten:,} times")
    if table.num_rows > SHOWN:
        print(f"the first {SHOWN} are shown; --json prints all, --output FILE writes them to a file")
    return 0


def _of(table: pyarrow.Table, rollout: str, place: str) -> pyarrow.Table:
    import pyarrow.compute as pc

    found = table.filter(pc.equal(table["rollout_id"], rollout))
    if not found.num_rows:
        raise InputError(f"{place} has no samples of a rollout {rollout!r}", reason="NoSuchRollout")
    return found


def _facts(row: dict[str, Any]) -> list[str]:
    versions = ", ".join(str(run["version"]) for run in row["policy_runs"]) or "-"
    reward = "-" if row["reward"] is None else f"{row['reward']:.3f}"
    counts = (f"{len(row['token_ids']):,}", f"{sum(row['loss_mask']):,}")
    return [row["rollout_id"], str(row["sample"]), *counts, versions, row["outcome"], reward]


async def _write(place: str, file: Path) -> int:
    """Stream a part at a time into one file; a file that was there is replaced when the new one is whole."""
    from kubegym.rollout import read_run
    from kubegym.rollout.samples import join, require_arrow
    from kubegym.storage import open_store

    require_arrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = open_store(place)
    temporary = file.with_name(f".{file.name}.partial")
    count = 0
    try:
        run = await read_run(store)
        schema = join([]).schema
        make = pa.ipc.new_file if file.suffix == ".arrow" else pq.ParquetWriter
        with make(str(temporary), schema) as writer:
            async for table in run.samples():
                writer.write_table(table)
                count += table.num_rows
        temporary.replace(file)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
        await store.close()
    print(f"{count:,} samples in {file}")
    return 0
