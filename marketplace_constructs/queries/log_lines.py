"""How a line of the access log is read: as SQL text for DuckDB, and the same in Python for lines one by one.

A line that is no JSON object, that lacks its ``extendedRequestId`` or its time, or that holds text where a number
belongs, cannot be read.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from marketplace_constructs.queries.access_log import ABSENT
from marketplace_constructs.queries.usage import LINES, MAX_DIGITS, MEMBERS

_NUMBER: Final = re.compile(rf"0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}}")

Line = dict[str, str | int | None]
"""A line's values by the names of ``queries.usage.LINES``; absent texts are None, absent numbers 0."""


def typed_lines(source: str, *, texts: Mapping[str, str] | None = None, also: Mapping[str, str] | None = None) -> str:
    """The text that gives the columns of ``LINES``, and ``id_hash``, which is NULL with the id of an unreadable line.

    Numbers are worked out in a query of their own, since DuckDB would work them out at every mention of them.

    Args:
        source: What ``json_source`` wrote.
        texts: Other expressions for some columns that are no numbers.
        also: Further columns, as expressions out of the source's.
    """
    members = {name: f'"{member}"' for name, member in MEMBERS.items()}
    numbers = {name: f"{name}_number" for name, kind in LINES.items() if kind == "bigint"}
    # A cast that fails is slow, so what many lines hold is not cast.
    cast = {number: f"try_cast(nullif({members[name]}, '{ABSENT}') AS BIGINT)" for name, number in numbers.items()}
    further = {name: f"further_{name}" for name in also or {}}
    cast |= {further[name]: expression for name, expression in (also or {}).items()}
    # A cast reads 1e3 and 1.5 as well; a number that is written back as it stood is a whole one.
    sound = " AND ".join(
        f"({number} BETWEEN 0 AND {10**MAX_DIGITS - 1} AND CAST({number} AS VARCHAR) = {members[name]} "
        f"OR {members[name]} IS NULL OR {members[name]} IN ('', '{ABSENT}'))"
        for name, number in numbers.items()
    )
    selected = {
        **{name: f"nullif(nullif({member}, '{ABSENT}'), '')" for name, member in members.items()},
        **{name: f"coalesce({number}, 0)" for name, number in numbers.items()},
        **(texts or {}),
        **further,
    }
    selected["extended_request_id"] = (
        f"CASE WHEN {numbers['request_time_ms']} > 0 AND {sound} THEN {selected['extended_request_id']} END"
    )
    given, worked_out = (
        ", ".join(f"{expression} AS {name}" for name, expression in columns.items()) for columns in (selected, cast)
    )
    return (
        "SELECT CASE WHEN extended_request_id IS NOT NULL THEN hash(extended_request_id) END AS id_hash, * "  # noqa: S608  # of this module's own names
        f"FROM (SELECT {given} FROM (SELECT *, {worked_out} FROM {source}))"
    )


def json_source(paths: Iterable[str], *, also: Iterable[str] = ()) -> str:
    """DuckDB's reader of plain files of JSON lines; a line that is none comes out as a row of NULLs.

    Args:
        paths: Are taken as they are, not as patterns.
        also: Further members.
    """
    columns = ", ".join(f"'{member}': 'VARCHAR'" for member in (*MEMBERS.values(), *also))
    names = ", ".join(f"'{quoted(glob.escape(path))}'" for path in paths)
    return (
        f"read_json([{names}], columns={{{columns}}}, format='newline_delimited', records=true, ignore_errors=true, "
        "compression='none', hive_partitioning=false)"
    )


def quoted(text: str) -> str:
    """A text as it stands between SQL's quotation marks."""
    return text.replace("'", "''")


def read_line(text: bytes) -> Line | None:
    """One line's values; None where it cannot be read."""
    try:
        members = json.loads(text)
    except ValueError:
        return None
    if not isinstance(members, dict):
        return None
    line: Line = {}
    for name, member in MEMBERS.items():
        value = members.get(member)
        said = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        if said in {"", ABSENT}:
            line[name] = 0 if LINES[name] == "bigint" else None
        elif LINES[name] != "bigint":
            line[name] = said
        elif _NUMBER.fullmatch(said):
            line[name] = int(said)
        else:
            return None
    return line if line["extended_request_id"] and line["request_time_ms"] else None
