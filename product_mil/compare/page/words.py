"""Figures as people write them."""

from collections.abc import Sequence

NONE, MINUS = "\u2013", "\u2212"  # an en dash where nothing is known, a proper minus


def percent(value: float | int | None, digits: int = 1) -> str:
    """A share in percent: 0.4712 becomes 47.1 %."""
    return NONE if value is None else f"{100 * value:.{digits}f}\u00a0%"


def percents(ci95: Sequence[float], digits: int = 1) -> str:
    """An interval of shares: 44.6 to 67.7 %."""
    return f"{100 * ci95[0]:.{digits}f} to {percent(ci95[1], digits)}"


def points(value: float | int | None, digits: int = 1) -> str:
    """A difference of shares in percentage points: 0.139 becomes +13.9."""
    if value is None:
        return NONE
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else "0" if value == 0 else text[1:]


def number(value: float | int | None, digits: int = 3) -> str:
    """A plain number with a proper minus."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def p_text(value: float) -> str:
    """A p-value as people write it."""
    return "<\u00a00.001" if value < 0.001 else f"{value:.3f}" if value < 0.995 else "1"


def count(value: float | int | None) -> str:
    """A number of products: 12345 becomes 12,345. A mean over seeds keeps one decimal."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def about(value: int) -> str:
    """A number of products of which two digits are meant: 2401 becomes 2,400."""
    return count(float(f"{value:.1e}"))


def span(ci95: Sequence[float]) -> str:
    """An interval of a difference in points: +2.9 to +5.5."""
    return f"{points(ci95[0])} to {points(ci95[1])}"


def with_sign(p: float) -> str:
    """A p-value with its sign, as it stands after the letter p: = 0.012."""
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
