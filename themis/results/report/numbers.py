"""How numbers are written: short, never misleading, and the same in every format.

Stored values are never rounded; only what a person reads is.
"""

_SMALLEST_SHOWN = 0.0001
_FEW_DIGITS = 0.001


def score(value: float | None) -> str:
    """Write a mean or a difference with three decimals.

    >>> score(0.51249), score(-0.0004), score(None), score(1234.5)
    ('0.512', '-0.0004', '-', '1234.5')
    """
    if value is None:
        return "-"
    if value != 0 and abs(value) < _FEW_DIGITS:
        return f"{value:.1g}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.6g}"  # noqa: PLR2004 -- digits


def signed(value: float | None) -> str:
    """Write a difference with its sign.

    >>> signed(0.0235), signed(-0.5), signed(0.0)
    ('+0.024', '-0.500', '0.000')
    """
    text = score(value)
    return f"+{text}" if value is not None and value > 0 else text


def interval(lower: float | None, upper: float | None) -> str:
    """Write the two ends, or a dash where there is no interval.

    >>> interval(0.1, 0.25), interval(None, None)
    ('[0.100, 0.250]', '-')
    """
    return "-" if lower is None or upper is None else f"[{score(lower)}, {score(upper)}]"


def p_value(value: float | None) -> str:
    """Write a p-value: three decimals, more where they matter, never 0.

    >>> p_value(0.0417), p_value(0.000321), p_value(2.3e-9), p_value(1e-300), p_value(None)
    ('0.042', '0.0003', '2e-09', '1e-300', '-')
    """
    if value is None:
        return "-"
    if value >= _FEW_DIGITS:
        return f"{value:.3f}"
    return f"{value:.4f}" if value >= _SMALLEST_SHOWN else f"{value:.0e}"


def count(value: int) -> str:
    """Write a count with thin groups.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{value:,}"
