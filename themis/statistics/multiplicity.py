"""Adjusting p-values for having asked many questions at once.

>>> adjust_p_values([0.01, 0.04, 0.03], "holm").tolist()
[0.03, 0.06, 0.06]
"""

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from themis.statistics.arrays import FloatArray, floats

Correction: TypeAlias = Literal["none", "bonferroni", "holm", "hochberg", "bh", "by"]

CORRECTIONS: tuple[Correction, ...] = ("none", "bonferroni", "holm", "hochberg", "bh", "by")


def adjust_p_values(p_values: npt.ArrayLike, method: Correction) -> FloatArray:
    """Adjust the p-values of one family; compare the result with alpha as it is.

    * bonferroni: p m.
    * holm: step-down, any dependence; S. Holm (1979), Scand. J. Statistics 6:65-70.
    * hochberg: step-up, needs independence or positive dependence; Y. Hochberg (1988),
      Biometrika 75:800-802.
    * bh: false discovery rate under independence or positive dependence; Y. Benjamini and
      Y. Hochberg (1995), J. Royal Statistical Society B 57:289-300.
    * by: false discovery rate under any dependence; Y. Benjamini and D. Yekutieli (2001),
      Annals of Statistics 29:1165-1188.

    Args:
        p_values: The family. NaN stands for "no test": it stays NaN and is not counted.
        method: Which adjustment.

    Returns:
        Adjusted p-values in the order given, at most 1.

    Raises:
        ValueError: If the method is unknown.
    """
    p = floats(p_values)
    if method not in CORRECTIONS:
        raise ValueError(f"unknown correction {method!r}; known: {', '.join(CORRECTIONS)}")
    known = np.isfinite(p)
    m = int(known.sum())
    if method == "none" or m == 0:
        return p.copy()
    order = np.argsort(p[known], kind="stable")
    ordered = p[known][order]
    rank = np.arange(1, m + 1)
    if method == "bonferroni":
        stepped = ordered * m
    elif method == "holm":
        stepped = np.maximum.accumulate(ordered * (m - rank + 1))
    else:
        factor = {
            "hochberg": m - rank + 1.0,
            "bh": m / rank,
            "by": m / rank * (1.0 / rank).sum(),
        }[method]
        stepped = np.minimum.accumulate((ordered * factor)[::-1])[::-1]
    back = np.empty(m)
    back[order] = np.minimum(stepped, 1.0)
    adjusted = np.full(len(p), np.nan)
    adjusted[known] = back
    return adjusted
