"""A database of DuckDB's: opened in bounded memory, filled, and rid of what was delivered twice."""

# ruff: noqa: S608 - names of this package and quoted texts only

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marketplace_constructs.queries.log_lines import quoted
from marketplace_constructs.queries.usage import LINES, first_lines, to_json_lines

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_TEMPORARY: Final = "16GB"
"""What a database may put aside on disk, besides what it is told to write."""
_PER_PART: Final = 4_000_000
"""Lines among which repetitions are looked for at a time: their hashes fit into memory."""


@contextmanager
def opened_database(directory: Path, *, memory: str, threads: int) -> Iterator[DuckDBPyConnection]:
    """An empty database in bounded memory, which downloads nothing.

    Args:
        directory: Where lies what does not fit into memory.
        memory: What it may hold, such as ``256MB``.
        threads: How many it may use.
    """
    import duckdb  # noqa: PLC0415  # the other functions' bundle does without, and so does who only lints

    connection = duckdb.connect(
        config={
            "memory_limit": memory,
            "threads": threads,
            "temp_directory": str(directory / "spilled"),
            "max_temp_directory_size": MAX_TEMPORARY,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    try:
        yield connection
    finally:
        connection.close()


def columns_of(schema: Mapping[str, str]) -> str:
    """What tells a reader of files which columns there are, and of which types."""
    columns = ", ".join(f"'{column}': '{kind}'" for column, kind in schema.items())
    return f"columns={{{columns}}}"


def load(
    connection: DuckDBPyConnection,
    directory: Path,
    name: str,
    schema: Mapping[str, str],
    rows: Iterable[Mapping[str, object]],
) -> None:
    """Let a table hold some rows, in place of what it held before.

    Args:
        connection: The database.
        directory: Where the rows may lie meanwhile.
        name: Of the table.
        schema: Type of each column, as the engine calls it.
        rows: By column.
    """
    path = directory / f"{name}.json"
    path.write_text(to_json_lines(rows), encoding="utf-8")
    connection.execute(
        f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM "
        f"read_json('{quoted(str(path))}', {columns_of(schema)}, format='newline_delimited')"
    )


def keep_first_lines(
    connection: DuckDBPyConnection, directory: Path, name: str, *, of: str, also: Sequence[str] = ()
) -> tuple[int, int]:
    """Let a view hold each line once; those that cannot be read stay as they are.

    Equal ids have equal hashes, so only lines whose hash comes twice are compared by id.

    Args:
        connection: The database.
        directory: An empty one, which the view needs.
        name: Of the view.
        of: The relation that holds ``id_hash``, NULL where a line cannot be read, and the columns of LINES.
        also: Further columns of it.

    Returns:
        How many lines can be read, and how many of them were repetitions.
    """
    columns = ", ".join((*LINES, *also))
    (readable,) = connection.execute(f"SELECT COUNT(id_hash) FROM {of}").fetchone() or (0,)
    parts = readable // _PER_PART + 1
    connection.execute("CREATE TABLE repeated (id_hash UBIGINT, copies BIGINT)")
    for part in range(parts):
        connection.execute(
            f"INSERT INTO repeated SELECT id_hash, COUNT(*) FROM {of} "
            f"WHERE id_hash % {parts} = {part} GROUP BY id_hash HAVING COUNT(*) > 1"
        )
    (repeated,) = connection.execute("SELECT CAST(SUM(copies) AS BIGINT) FROM repeated").fetchone() or (None,)
    if not repeated:
        connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM {of}")
        return readable, 0
    kept = 0
    for part in range(parts):
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW candidates AS SELECT {columns} FROM {of} SEMI JOIN repeated "
            f"USING (id_hash) WHERE id_hash % {parts} = {part}"
        )
        copy = f"COPY ({first_lines('candidates', also=also)}) TO '{quoted(str(directory / str(part)))}'"
        kept += (connection.execute(f"{copy} (FORMAT parquet)").fetchone() or (0,))[0]
    connection.execute(
        f"CREATE VIEW {name} AS SELECT {columns} FROM {of} ANTI JOIN repeated USING (id_hash) "
        f"UNION ALL SELECT {columns} FROM read_parquet('{quoted(str(directory))}/*')"
    )
    return readable, repeated - kept
