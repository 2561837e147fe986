"""Results for programs: JSON, CSV and Parquet, with every stored digit."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from themis.errors import missing_extra
from themis.results.report.data import ReportData

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Row(Protocol):
    """Anything that can be flattened to JSON values."""

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""


def render_json(data: ReportData) -> str:
    """Write everything but the items as one JSON document, keys sorted."""
    document = {
        "title": data.title,
        "run_id": data.run_id,
        "created": data.created,
        "notes": list(data.notes),
        "census": [{**row.keys, **row.counts} for row in data.census],
        "aggregates": [row.to_dict() for row in data.aggregates],
        "paired": [row.to_dict() for row in data.paired],
        "breakdowns": {
            name: [row.to_dict() for row in rows] for name, rows in data.breakdowns.items()
        },
        "tokens": [asdict(row) for row in data.tokens],
        "attempts": [asdict(row) for row in data.attempts],
        "comparability": [entry.to_dict() for entry in data.comparability],
        "provenance": data.provenance,
        "config": None if data.config is None else data.config.to_dict(),
    }
    return (
        json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    )


def render_csv(rows: Sequence[Row]) -> str:
    """Write rows as CSV, one column per field; None is empty, flags are joined by spaces.

    Text that a spreadsheet would run as a formula (=, +, -, @) gets a leading apostrophe.
    """
    flat = [row.to_dict() for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in flat)
    return target.getvalue()


def render_parquet(rows: Sequence[Row]) -> bytes:
    """Write rows as a Parquet file, one column per field, numbers in full.

    Raises:
        EnvironmentNotReadyError: If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise missing_extra("pyarrow", "parquet") from error
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row.to_dict() for row in rows]), target)
    return target.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return " ".join(str(part) for part in value)
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value
