"""Generated datasets: the tasks of reasoning-gym, exact and seeded.

A dataset is named `reasoning-gym:TASK`, for example `reasoning-gym:chain_sum`. Its `options` are
`size` (how many items, 100 by default), `seed` (the project's `global_seed` by default) and the
task's own settings, for example `min_terms`. The same options give the same items with the same
release of the library; the items' hashes, not the options, are what identity is made from.

Each item has `question`, `answer` and `metadata`. The metric `reasoning_gym` scores an answer by
the task's own rule.
"""

import difflib
import json
import operator
from collections.abc import Iterator
from typing import Any

from themis.errors import ErrorCode, SpecValidationError, missing_extra
from themis.planning.protocol import DatasetSliceSpec
from themis.specs import DatasetQuerySpec

GYM_PREFIX = "reasoning-gym"
"""What comes before the colon in a dataset's name."""

DEFAULT_SIZE = 100
"""How many items a dataset has when its options do not say."""


class ReasoningGymProvider:
    """Generates the items of a reasoning-gym task."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def scan(
        self,
        slice_spec: DatasetSliceSpec,
        query: DatasetQuerySpec,  # noqa: ARG002 - generating all costs less than a second
    ) -> Iterator[dict[str, Any]]:
        """Generate the items.

        Raises:
            SpecValidationError: There is no such task, or it refuses the options.
            EnvironmentNotReadyError: reasoning-gym is not installed.
        """
        try:
            import reasoning_gym
            from reasoning_gym.factory import DATASETS
        except ImportError as error:
            raise missing_extra("reasoning-gym", "gym") from error
        name = (slice_spec.dataset.dataset_id or "").partition(":")[2]
        if name not in DATASETS:
            close = difflib.get_close_matches(name, DATASETS, n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise SpecValidationError(f"reasoning-gym has no task {name!r}{hint}")
        settings: dict[str, Any] = {
            "seed": self._seed,
            "size": DEFAULT_SIZE,
            **slice_spec.dataset.options,
        }
        try:
            size = operator.index(settings["size"])
            tasks = reasoning_gym.create_dataset(name, **settings)
        except (AssertionError, TypeError, ValueError) as error:
            raise SpecValidationError(
                f"the options of {GYM_PREFIX}:{name} are refused: {error}",
                code=ErrorCode.ITEM_LOAD,
            ) from error
        for number in range(size):
            entry = tasks[number]
            # Its metadata may hold tuples; JSON has only lists.
            plain = json.loads(json.dumps(entry, default=str))
            yield {"item_id": f"{name}-{settings['seed']}-{number}", **plain}
