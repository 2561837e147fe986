"""Read the scores of a run with the keys that a question about them needs."""

from collections.abc import Iterable

from themis.records.score_table import ScoreTable
from themis.results.grouping import COLUMN_KEYS, known_keys
from themis.storage.dimensions import item_fields
from themis.storage.plans import Run
from themis.storage.store import Store
from themis.storage.tables import read_scores


def read_table(store: Store, run: Run, keys: Iterable[str] = ()) -> ScoreTable:
    """Return every planned score of a run, with labels for the keys to group by.

    Labels of items cost a look at every item, so only those that are asked for are read.

    Args:
        store: The store.
        run: The run.
        keys: Columns of the table, dimensions of slices, and metadata or fields of items.

    Raises:
        ValueError: There is no such key; the message lists those that there are.
    """
    known = {
        *COLUMN_KEYS,
        "status",
        *(n for part in run.benchmark["slices"] for n in part["dimensions"]),
    }
    wanted = [name for name in dict.fromkeys(keys) if name not in known]
    table = read_scores(store, run, item_fields=wanted)
    unknown = [name for name in wanted if name not in table.item_dimensions]
    if unknown:
        listed = dict.fromkeys((*known_keys(table), *item_fields(store, run)))
        raise ValueError(f"cannot group by {unknown[0]!r}; known keys: {', '.join(listed)}")
    return table
