"""The claims of docs/statistics.md about coverage and size, by counting every outcome."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import gammaln, ndtri

from themis.statistics import paired_binary, proportions
from themis.statistics.arrays import FloatArray, Interval

PAGE = " ".join((Path(__file__).parents[3] / "docs" / "statistics.md").read_text().split())
N = 20


def outcomes() -> tuple[FloatArray, FloatArray, Callable[[float, float], FloatArray]]:
    """Every (wins, losses) of N items, and their chances given the two probabilities."""
    b, c = (grid.ravel() for grid in np.meshgrid(np.arange(N + 1.0), np.arange(N + 1.0)))
    possible = b + c <= N
    b, c = b[possible], c[possible]
    ways = gammaln(N + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(N - b - c + 1)

    def chances(win: float, loss: float) -> FloatArray:
        log = ways + b * np.log(win) + c * np.log(loss) + (N - b - c) * np.log1p(-win - loss)
        return np.asarray(np.exp(log))

    return b, c, chances


@pytest.mark.parametrize(
    ("test", "size"),
    [("mcnemar_midp", "0.0504"), ("mcnemar_exact", "0.0348")],
)
def test_the_size_of_the_paired_tests_is_as_documented(test: str, size: str) -> None:
    b, c, chances = outcomes()
    rejected = getattr(paired_binary, test)(b, c) <= 0.05

    largest = max(float(chances(q, q)[rejected].sum()) for q in np.arange(0.01, 0.5, 0.01).tolist())

    assert f"{largest:.4f}" == size
    assert size.lstrip("0") in PAGE


@pytest.mark.parametrize(
    ("interval", "worst"),
    [(paired_binary.bonett_price, "0.930"), (paired_binary.wald, "0.456")],
)
def test_the_worst_coverage_of_the_paired_intervals_is_as_documented(
    interval: Callable[..., Interval], worst: str
) -> None:
    b, c, chances = outcomes()
    lower, upper = interval(b, c, N)

    coverage = min(
        float(chances(p, q)[(lower <= p - q) & (p - q <= upper)].sum())
        for p in np.arange(0.01, 0.99, 0.02).tolist()
        for q in np.arange(0.01, 0.99 - p, 0.02).tolist()
        if p + q < 1 - 1e-9
    )

    assert f"{coverage:.3f}" == worst
    assert worst.lstrip("0") in PAGE


def usual(k: Any, n: int) -> Interval:
    """Estimate ± 1.96 standard errors, which Themis does not offer."""
    p = np.asarray(k) / n
    half = ndtri(0.975) * np.sqrt(p * (1 - p) / n)
    return Interval(p - half, p + half)


@pytest.mark.parametrize(("interval", "worst"), [(proportions.wilson, "90 %"), (usual, "10 %")])
def test_the_worst_coverage_of_ten_items_is_as_documented(
    interval: Callable[..., Interval], worst: str
) -> None:
    k = np.arange(11.0)
    lower, upper = interval(k, 10)
    ways = gammaln(11) - gammaln(k + 1) - gammaln(11 - k)

    coverage = min(
        float(
            np.exp(ways + k * np.log(p) + (10 - k) * np.log1p(-p))[
                (lower <= p) & (p <= upper)
            ].sum()
        )
        for p in np.arange(0.01, 0.995, 0.01)
    )

    assert f"{100 * coverage:.0f} %" == worst
    assert worst in PAGE
