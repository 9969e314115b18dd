import pytest

from product_mil.compare.page.words import about


@pytest.mark.parametrize(
    ("value", "expected"),
    [(6, "6"), (15, "15"), (104, "100"), (2401, "2,400"), (2451, "2,500"), (123_456, "120,000")],
)
def test_about_keeps_two_digits(value: int, expected: str) -> None:
    assert about(value) == expected
