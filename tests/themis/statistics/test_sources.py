"""Every formula says where it comes from."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import themis.statistics

PLUMBING = {"arrays"}


def formulas() -> Iterator[Any]:
    for module in pkgutil.iter_modules(themis.statistics.__path__):
        if module.name in PLUMBING:
            continue
        loaded = importlib.import_module(f"themis.statistics.{module.name}")
        for name, thing in vars(loaded).items():
            own = inspect.isfunction(thing) and thing.__module__ == loaded.__name__
            if own and not name.startswith("_"):
                yield pytest.param(thing, id=f"{module.name}.{name}")


@pytest.mark.parametrize("formula", list(formulas()))
def test_a_formula_names_a_year_or_the_formula_it_is_made_of(formula: Callable[..., Any]) -> None:
    words = inspect.getdoc(formula) or ""

    others = {name for name in re.findall(r"`(\w+)`", words) if name in formula.__globals__}
    assert re.search(r"\b(18|19|20)\d\d\b", words) or others - {formula.__name__}
