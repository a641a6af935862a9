"""Access logs as DuckDB reads them: files of JSON lines, judged by plan tables within bounded memory.

The files are read once, into typed columns in temporary Parquet files; then lines that were delivered twice are found
and the rest is judged, by any number of tables, with the text that the meter bills by.
"""

# ruff: noqa: S608 - names of this module and quoted texts only

from __future__ import annotations

import glob
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final, Self

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.plan_table import LineState, PlanTable
from marketplace_constructs.engine.database import keep_first_lines, load, opened_database
from marketplace_constructs.engine.parts import UnpackingError, unpacked
from marketplace_constructs.queries.access_log import ABSENT, REFUSED_BY_GATEWAY
from marketplace_constructs.queries.log_lines import json_source, quoted, typed_lines
from marketplace_constructs.queries.usage import (
    CELLS,
    COUNTED,
    ROUTES,
    cell_rows,
    quantity_of,
    route_rows,
    usage_query,
)

MEMORY: Final = "256MB"
"""What DuckDB may hold; with Python and DuckDB themselves the process stays below 512 MB."""

Progress = Callable[[float], None]
"""Is told now and then how much of the log was read: from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Lines that count alike.

    Args:
        keys: What was asked for to tell lines apart by, in that order.
        dimension: None where the state belongs to no dimension.
        state: A LineState, or ``skipped``.
        policy: ``id@version`` of the deciding statement; None where there is none.
        sid: The deciding statement.
        lines: How many.
        quantity: In the dimension's unit, exact, not floored.
    """

    keys: tuple[str | int, ...]
    dimension: str | None
    state: str
    policy: str | None
    sid: str | None
    lines: int
    quantity: Fraction


class AccessLog:
    """A log, read once and judged as often as wanted; a context manager that leaves nothing behind.

    Args:
        files: Plain or gzip, told apart by content; directories stand for all files in them, patterns for what they
            match.
        tables: The only tables by which it will be judged; what they do not tell apart is not kept. None: any.
        keeps_agreements: Whether usage can be told apart by agreement.
        keeps_lines: Whether each line has a member ``line``, a whole number, by which usage can be told apart.
        progress: Is told how far the reading is.

    Raises:
        MarketplaceConstructsError: MP-SIM-01: there is no such file, or it cannot be read.
    """

    def __init__(
        self,
        files: Iterable[str | Path],
        *,
        tables: Sequence[PlanTable] | None = None,
        keeps_agreements: bool = True,
        keeps_lines: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._files = log_files(files)
        self._tables = tables
        self._keeps_agreements = keeps_agreements or tables is None
        self._also = ("line",) if keeps_lines else ()
        self._progress = progress
        self.unparsable = 0
        """Lines that are no JSON object, hold no ``extendedRequestId`` or no time, or text where a number belongs."""
        self.duplicates = 0
        """Lines that repeat the ``extendedRequestId`` of another."""

    def __enter__(self) -> Self:
        import duckdb  # noqa: PLC0415 - the policy layer is also loaded where there is none

        self._held = ExitStack()
        try:
            directory = self._held.enter_context(tempfile.TemporaryDirectory(prefix="sellable-log-"))
            self._directory = Path(directory)
            self._connection = self._held.enter_context(
                opened_database(self._directory, memory=MEMORY, threads=os.cpu_count() or 1)
            )
            try:
                self._read()
            except duckdb.Error as error:
                raise _unreadable(f"got {str(error).splitlines()[0]}") from None
            except UnpackingError as error:
                raise _unreadable(f"got {error.reason} in {str(self._files[error.file])!r}") from None
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def usage(self, table: PlanTable, by: Sequence[str] = ()) -> tuple[Usage, ...]:
        """What the lines count under a table, in no order.

        Args:
            table: One of ``tables``, where these were given.
            by: Names out of ``queries.usage.KEYS``.
        """
        load(self._connection, self._directory, "routes", ROUTES, route_rows(table))
        load(self._connection, self._directory, "cells", CELLS, cell_rows(table))
        plan_id = table.plan.partition("@")[0]
        rows = self._connection.execute(usage_query(by), [plan_id]).fetchall()
        width = len(by)
        quantities: dict[tuple[tuple[str | int, ...], tuple[str | None, ...]], tuple[int, Fraction]] = {}
        for row in rows:
            counted = dict(zip(COUNTED, row[width:], strict=False))
            lines, base_sum = int(row[-2]), int(row[-1])
            quantity = Fraction(0)
            if counted["state"] == LineState.BILLABLE:
                quantity = quantity_of(
                    base_sum, multiply=Decimal(counted["multiply"]), base_units=int(counted["base_units"])
                )
            name = (counted["dimension"], str(counted["state"]), counted["policy"] or None, counted["sid"] or None)
            before = quantities.get((row[:width], name), (0, Fraction(0)))
            quantities[row[:width], name] = (before[0] + lines, before[1] + quantity)
        return tuple(
            Usage(keys=keys, dimension=name[0], state=str(name[1]), policy=name[2], sid=name[3], lines=n, quantity=q)
            for (keys, name), (n, q) in quantities.items()
        )

    def routes(self, *, at_most: int) -> tuple[tuple[str, str], ...]:
        """Method and template of each route that the log shows, sorted by template and method.

        Only where ``tables`` were not given.

        Raises:
            MarketplaceConstructsError: MP-SIM-01: there are more than ``at_most``.
        """
        found = self._connection.execute(
            f"SELECT DISTINCT path, method FROM lines WHERE path IS NOT NULL AND method IS NOT NULL LIMIT {at_most + 1}"
        ).fetchall()
        if len(found) > at_most:
            raise _unreadable(f"got more than {at_most:,} routes, so resourcePath holds no templates")
        return tuple((method, path) for path, method in sorted(found))

    def _read(self) -> None:
        self._make_enums()
        texts, also = self._texts(), {name: f'CAST("{name}" AS BIGINT)' for name in self._also}
        size, total = sum(file.stat().st_size for file in self._files), 0
        for directory in ("parts", "typed", "first"):
            (self._directory / directory).mkdir()
        for number, part in enumerate(unpacked(self._files, self._directory / "parts")):
            selected = typed_lines(json_source([str(part.path)], also=self._also), texts=texts, also=also)
            target = quoted(str(self._directory / "typed" / str(number)))
            copy = f"COPY ({selected}) TO '{target}' (FORMAT parquet, COMPRESSION uncompressed)"
            total += (self._connection.execute(copy).fetchone() or (0,))[0]
            if self._progress is not None:
                self._progress(min(part.read / size, 1.0) if size else 1.0)
        typed = quoted(str(self._directory / "typed"))
        self._connection.execute(f"CREATE VIEW read AS SELECT * FROM read_parquet('{typed}/*')")
        readable, self.duplicates = keep_first_lines(
            self._connection, self._directory / "first", "lines", of="read", also=self._also
        )
        self.unparsable = total - readable

    def _make_enums(self) -> None:
        """The texts that the tables know: all others mean the same, and need not be kept."""
        if self._tables is None:
            return
        routes = [route for table in self._tables for route in table.routes]
        for name, texts in {
            "known_method": {route.method for route in routes},
            "known_path": {route.path for route in routes},
            "known_error": REFUSED_BY_GATEWAY,
        }.items():
            values = ", ".join(f"'{quoted(text)}'" for text in sorted(texts) or [""])
            self._connection.execute(f"CREATE TYPE {name} AS ENUM ({values})")

    def _texts(self) -> dict[str, str]:
        """What becomes of the texts of a line; of those that the tables do not tell apart as little as possible."""
        if self._tables is None:
            return {}
        ids = sorted({table.plan.partition("@")[0] for table in self._tables})
        cases = " ".join(f"WHEN \"plan\" = '{one}' OR starts_with(\"plan\", '{one}@') THEN '{one}'" for one in ids)
        # A cast that fails is slow, so what most lines hold is not cast.
        error = f'CASE WHEN "errorResponseType" <> \'{ABSENT}\' THEN try_cast("errorResponseType" AS known_error) END'
        texts = {
            "method": 'try_cast("httpMethod" AS known_method)',
            "path": 'try_cast("resourcePath" AS known_path)',
            "error_type": error,
            "plan": f"CASE {cases} END",
        }
        if not self._keeps_agreements:
            texts["agreement"] = f"CASE WHEN \"agreement\" NOT IN ('', '{ABSENT}') THEN 'any' END"
        return texts


@contextmanager
def log_of(lines: Iterable[Mapping[str, object]]) -> Iterator[AccessLog]:
    """A log of a few lines, each of which usage can be told apart by, under its index from 0."""
    with tempfile.TemporaryDirectory(prefix="sellable-lines-") as directory:
        path = Path(directory, "lines.json")
        with path.open("w", encoding="utf-8") as file:
            for index, line in enumerate(lines):
                file.write(f"{json.dumps({**line, 'line': index})}\n")
        with AccessLog([path], keeps_lines=True) as log:
            yield log


def log_files(names: Iterable[str | Path]) -> list[Path]:
    """The files that names stand for, absolute, each once and sorted.

    Raises:
        MarketplaceConstructsError: MP-SIM-01: a name stands for nothing, or a file cannot be read.
    """
    found: set[Path] = set()
    for name in map(str, names):
        path = Path(name)
        paths = [path] if path.exists() else [Path(one) for one in glob.glob(name, recursive=True)]  # noqa: PTH207
        files = {
            file
            for one in paths
            for file in (one.rglob("*") if one.is_dir() else [one])
            if file.is_file() and not file.name.startswith(".")
        }
        if not files:
            raise _unreadable(f"got {name!r}, which is no file")
        found |= {file.absolute() for file in files}
    for file in sorted(found):
        try:
            file.open("rb").close()
        except OSError as error:
            raise _unreadable(f"got {error.strerror} for {str(file)!r}") from None
    return sorted(found)


def _unreadable(what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(
        Problem(
            "MP-SIM-01", f"log, {what}; expected files of JSON lines, plain or gzip; see --log in sellable simulate -h"
        )
    )
