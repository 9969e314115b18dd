from product_mil.text import duration, table


def test_durations_for_people() -> None:
    assert [duration(s) for s in (0.4, 119.0, 120.0, 3599.0, 3600.0, 9000.0)] == [
        "0 s",
        "119 s",
        "2 min",
        "60 min",
        "1.0 h",
        "2.5 h",
    ]


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    rows = [("", "n", "why"), ("apple", "12", ""), ("fig", "7", "a long reason")]
    assert table(rows, "<><") == ["        n  why", "apple  12", "fig     7  a long reason"]
    assert table(rows, ("<7", ">4", "<"), gap="|") == [
        "       |   n|why",
        "apple  |  12|",
        "fig    |   7|a long reason",
    ]
    assert table([("", "")], "<>") == [""]
