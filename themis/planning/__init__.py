"""Planning: from a benchmark to the work that is not done yet.

Items come from datasets (`datasets`, `gym`), a query takes a part of them (`queries`), and
each prompt variant is rendered for each item (`prompts`).
"""

from themis.planning.datasets import load_items as load_items
from themis.planning.items import DataItem as DataItem
from themis.planning.protocol import DatasetProvider as DatasetProvider
from themis.planning.protocol import DatasetSliceSpec as DatasetSliceSpec
