"""How a line of the access log is read: as SQL text for DuckDB, and the same in Python for lines one by one.

A line that is no JSON object, that lacks its ``extendedRequestId`` or its time, or that holds text where a number
belongs, cannot be read.
"""

from __future__ import annotations

import json
import re
from typing import Final

from marketplace_constructs.queries.access_log import ABSENT
from marketplace_constructs.queries.usage import LINES, MAX_DIGITS, MEMBERS

_NUMBER: Final = re.compile(rf"0|[1-9][0-9]{{0,{MAX_DIGITS - 1}}}")

Line = dict[str, str | int | None]
"""A line's values by the names of ``queries.usage.LINES``; absent texts are None, absent numbers 0."""


def typed_lines(source: str) -> str:
    """The text that gives the columns of ``LINES``, and ``id_hash``, ``hour`` and ``filename``.

    Args:
        source: What ``json_source`` wrote.
    """
    numbers = {name: f'try_cast("{MEMBERS[name]}" AS BIGINT)' for name, kind in LINES.items() if kind == "bigint"}
    texts = {name: f"nullif(nullif(\"{MEMBERS[name]}\", '{ABSENT}'), '')" for name in LINES if name not in numbers}
    # A cast reads 1e3 and 1.5 as well; a number that is written back as it stood is a whole one.
    sound = " AND ".join(
        f"CASE WHEN coalesce(\"{MEMBERS[name]}\", '') IN ('', '{ABSENT}') THEN true "
        f'ELSE {number} >= 0 AND {number} < {10**MAX_DIGITS} AND CAST({number} AS VARCHAR) = "{MEMBERS[name]}" END'
        for name, number in numbers.items()
    )
    time = f"coalesce({numbers['request_time_ms']}, 0)"
    selected = {
        **texts,
        **{name: f"coalesce({number}, 0)" for name, number in numbers.items()},
        "extended_request_id": f"CASE WHEN {sound} AND {time} > 0 THEN {texts['extended_request_id']} END",
    }
    given = ", ".join(f"{selected[name]} AS {name}" for name in LINES)
    return (
        f'SELECT {given}, hash("{MEMBERS["extended_request_id"]}") AS id_hash, {time} - {time} % 3600000 AS hour, '  # noqa: S608  # of this module's own names
        f"filename FROM {source}"
    )


def json_source(paths: list[str], *, compression: str) -> str:
    """DuckDB's reader of files of JSON lines; a line that is none comes out as a row of NULLs.

    Args:
        paths: Without a quotation mark.
        compression: ``gzip`` or ``none``.
    """
    columns = ", ".join(f"'{member}': 'VARCHAR'" for member in MEMBERS.values())
    names = ", ".join(f"'{path}'" for path in paths)
    return (
        f"read_json([{names}], columns={{{columns}}}, format='newline_delimited', records=true, ignore_errors=true, "
        f"compression='{compression}', hive_partitioning=false, filename=true)"
    )


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
