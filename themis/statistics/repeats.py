"""Several answers per item: what picking k of n of them would give.

All take the number of answers n and of right answers c per item, and give the unbiased
estimate for that item over all ways to pick k of the n. Average the items afterwards.

    >>> float(pass_at_k(10, 3, 5).round(4))
    0.9167
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from themis.statistics.arrays import FloatArray, floats


def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int) -> FloatArray:
    """Chance that at least one of k answers is right: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al. (2021), Evaluating Large Language Models Trained on Code,
    arXiv:2107.03374, eq. 1.

    Args:
        n: Answers per item.
        c: Right answers per item.
        k: Answers picked.

    Returns:
        One estimate per item; NaN where an item has fewer than k answers.
    """
    n, c = floats(n), floats(c)
    ways = _log_binomial(np.maximum(n, k), k)
    return _where_enough(n, k, -np.expm1(_log_binomial(n - c, k) - ways))


def pass_hat_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int) -> FloatArray:
    """Chance that all of k answers are right: C(c, k) / C(n, k).

    Source: Yao et al. (2024), tau-bench, arXiv:2406.12045 (written pass^k there).

    Args:
        n: Answers per item.
        c: Right answers per item.
        k: Answers picked.

    Returns:
        One estimate per item; NaN where an item has fewer than k answers.
    """
    n, c = floats(n), floats(c)
    ways = _log_binomial(np.maximum(n, k), k)
    return _where_enough(n, k, np.exp(_log_binomial(c, k) - ways))


def maj_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: int) -> FloatArray:
    """Chance that right answers are the majority among k; a tie counts one half.

    Hypergeometric: picking k of the n without replacement. The vote itself is that of Wang
    et al. (2022), Self-Consistency, arXiv:2203.11171, reduced to right against wrong; wrong
    answers that disagree with each other are counted as one camp, so this is a lower bound
    for a plurality vote.

    Args:
        n: Answers per item.
        c: Right answers per item.
        k: Answers picked.

    Returns:
        One estimate per item; NaN where an item has fewer than k answers.
    """
    n, c = np.broadcast_arrays(floats(n), floats(c))
    right = np.arange(k + 1)
    credit = np.where(2 * right > k, 1.0, np.where(2 * right == k, 0.5, 0.0))
    log = (
        _log_binomial(c[..., None], right)
        + _log_binomial((n - c)[..., None], k - right)
        - _log_binomial(np.maximum(n, k), k)[..., None]
    )
    return _where_enough(n, k, np.exp(log) @ credit)


def _log_binomial(n: FloatArray, k: npt.ArrayLike) -> FloatArray:
    """Give log C(n, k); -inf where k > n."""
    k = floats(k)
    possible = n >= k
    spare = np.where(possible, n - k, 0.0)
    value = -betaln(spare + 1, k + 1) - np.log1p(np.where(possible, n, k))
    return np.where(possible, value, -np.inf)


def _where_enough(n: FloatArray, k: int, estimate: FloatArray) -> FloatArray:
    return np.where(n >= k, estimate, np.nan)
