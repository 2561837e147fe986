"""How numbers are written: short, never misleading, and the same in every format.

Stored values are never rounded; only what a person reads is.
"""

from datetime import UTC, datetime

_SMALLEST_SHOWN = 0.0001
_FEW_DIGITS = 0.001
_MINUTE, _HOUR = 60, 3600


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


def moment(at: float | None) -> str:
    """Write a time in Unix seconds as date and time in UTC.

    >>> moment(1_700_000_000.4), moment(None)
    ('2023-11-14 22:13:20', '-')
    """
    if at is None:
        return "-"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float | None) -> str:
    """Write a duration.

    >>> duration(4.25), duration(95), duration(7384), duration(None)
    ('4.2 s', '1:35 min', '2:03 h', '-')
    """
    if seconds is None:
        return "-"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    unit, name = (1, "min") if seconds < _HOUR else (_MINUTE, "h")
    large, small = divmod(int(seconds) // unit, 60)
    return f"{large}:{small:02d} {name}"
