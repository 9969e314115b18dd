import json
from pathlib import Path

import numpy as np
import pytest

from product_mil.errors import UserError
from product_mil.sources.categories import Categories, categories_from_ids, path_of, read_categories
from product_mil.sources.ids import NO_CATEGORY

HEADER = "category_id,category_level1,category_level2,category_level3\n"
TREE = HEADER + (
    "30,TOYS,OTHER,KITES\n"
    "10,BOOKS,OTHER,ATLASES\n"
    '20,TOYS,BALLS,"BALLS, BIG"\n'
    "-5,TOYS,OTHER,YO-YOS\n"
)


def read(tmp_path: Path, text: str, encoding: str = "utf-8") -> Categories:
    path = tmp_path / "names.csv"
    path.write_bytes(text.encode(encoding))
    return read_categories(path)


def assert_is_tree(categories: Categories) -> None:
    assert categories.ids.tolist() == [-5, 10, 20, 30]
    assert categories.names[2] == ("TOYS", "BALLS", "BALLS, BIG")
    assert categories.groups[0].tolist() == [0, 1, 0, 0]
    # BOOKS/OTHER and TOYS/OTHER share a name and are two groups.
    assert categories.groups[1].tolist() == [0, 1, 2, 0]
    assert categories.levels() == (2, 3, 4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_reads_the_tree(tmp_path: Path, encoding: str, newline: str) -> None:
    assert_is_tree(read(tmp_path, TREE.replace("\n", newline), encoding))


def test_columns_come_in_any_order_and_others_are_left(tmp_path: Path) -> None:
    rows = [line.split(",", 3) for line in TREE.splitlines()]
    text = "".join(f"{c3},extra,{number},{c2},{c1}\n\n" for number, c1, c2, c3 in rows)
    assert_is_tree(read(tmp_path, text))


def test_travels_as_json(tmp_path: Path) -> None:
    text = read(tmp_path, TREE.replace("KITES", "CERFS-VOLANTS é")).to_json()
    categories = Categories.from_json(text)
    assert_is_tree(categories)
    assert categories.names[3][2] == "CERFS-VOLANTS é"
    assert categories.to_json() == text


def test_class_of_an_id(tmp_path: Path) -> None:
    ids = np.array([30, -5, 11, 99, NO_CATEGORY, 10, 20])
    classes = read(tmp_path, TREE).class_of(ids)
    assert classes.dtype == np.int32
    assert classes.tolist() == [3, 0, -1, -1, -1, 1, 2]


def test_all_that_is_wrong_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = HEADER + f"7,A,B,C\n,A,B,C\n7,A,B,D\n8,A\n{'9' * 201},A,B,C\n"
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "names.csv",
        "line 3: the category_id is not usable: it is empty",
        "line 4: category_id 7 was on line 2",
        "line 5: not as many fields as the header names",
        "line 6: the category_id is not usable: it has 201 characters, more than 200",
    ):
        assert part in message


def test_a_comma_that_is_not_quoted_cuts_no_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 3: not as many fields as the header names; quote"):
        read(tmp_path, HEADER + "1,A,B,C\n2,A,B,C, BIG\n")


@pytest.mark.parametrize(
    ("row", "level"), [("2,,B,C", 1), ("2,A, ,C", 2), ("2,,,C", 1), ("2,,,", 1)]
)
def test_a_level_without_a_name(tmp_path: Path, row: str, level: int) -> None:
    """Groups without a name would be one group, whatever they are."""
    message = f"names.csv: line 3: category_level{level} is empty; only the levels below the last"
    with pytest.raises(UserError, match=message):
        read(tmp_path, HEADER + f"1,A,B,C\n{row}\n")
    skipped: list[str] = []
    assert read_categories(tmp_path / "names.csv", skipped).ids.tolist() == [1]
    assert len(skipped) == 1


def test_a_branch_that_ends_higher_up_repeats_its_last_name(tmp_path: Path) -> None:
    header = "category_id,category_level1,category_level2,category_level3,category_level4\n"
    short = read(tmp_path, header + "1,A,B,C,D\n2,A,B,,\n3,A, , ,\n4,A,B,,\n")
    repeated = read(tmp_path, header + "1,A,B,C,D\n2,A,B,B,B\n3,A,A,A,A\n4,A,B,B,B\n")
    assert short.names == repeated.names
    assert short.names[1:3] == (("A", "B", "B", "B"), ("A", "A", "A", "A"))
    np.testing.assert_array_equal(short.groups, repeated.groups)
    np.testing.assert_array_equal(short.groups[2], [0, 1, 2, 1])


# Names in several scripts. The fourth and the fifth differ only in how their accent is written.
SCRIPTS = ("家用电器", "ملابس", "🧸 игрушки", "caf\u00e9", "cafe\u0301", "क्षेत्र")


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_trees_of_other_depths_in_any_script(tmp_path: Path, depth: int) -> None:
    """Class i has the path of its digits in base 2 from the top down, so the tree is full."""
    paths = [
        tuple(SCRIPTS[level] + format(i, f"0{depth}b")[level] for level in range(depth))
        for i in range(2**depth)
    ]
    header = ",".join(["category_id", *(f"category_level{n}" for n in range(1, depth + 1))])
    rows = [",".join([str(i), *path]) for i, path in enumerate(paths)]
    categories = read(tmp_path, "\n".join([header, *reversed(rows)]), "utf-8-sig")
    assert categories.depth == depth
    assert categories.names == tuple(paths)
    assert categories.levels() == tuple(2**level for level in range(1, depth + 1))
    for level in range(1, depth + 1):
        np.testing.assert_array_equal(
            categories.groups[level - 1], np.arange(2**depth) >> (depth - level)
        )
    again = Categories.from_json(categories.to_json())
    assert again.names == categories.names
    np.testing.assert_array_equal(again.groups, categories.groups)
    assert again.to_json() == categories.to_json()


def test_accents_are_kept_as_they_are_written(tmp_path: Path) -> None:
    """Two spellings of a name that look alike are two names."""
    categories = read(
        tmp_path, "category_id,category_level1,category_level2\n1,caf\u00e9,x\n2,cafe\u0301,x\n"
    )
    assert categories.levels() == (2, 2)


def test_classes_of_the_same_names_are_two_classes(tmp_path: Path) -> None:
    categories = read(tmp_path, "category_id,category_level1\n1,A\n2,A\n3,B\n")
    np.testing.assert_array_equal(categories.groups, [[0, 1, 2]])


def test_a_file_of_ids_alone(tmp_path: Path) -> None:
    categories = read(tmp_path, "category_id\n30\n-5\n")
    assert categories.names == (("-5",), ("30",))
    assert categories.levels() == (2,)


def test_the_json_of_earlier_files() -> None:
    """Three levels are written as they have always been."""
    text = '{"ids": [1, 2], "names": [["A", "B", "É"], ["A", "A", "A"]]}'
    categories = Categories.from_json(text)
    assert categories.to_json() == text
    assert categories.levels() == (1, 2, 2)
    flat = json.dumps({"ids": [9, 10], "names": [["9"] * 3, ["10"] * 3]})
    np.testing.assert_array_equal(Categories.from_json(flat).groups, [[0, 1]] * 3)


def test_spaces_around_names_make_no_other_group(tmp_path: Path) -> None:
    spaced = TREE.replace("20,TOYS,BALLS,", "20, TOYS ,BALLS, ").replace("30,TOYS", " 30,TOYS ")
    assert_is_tree(read(tmp_path, spaced))


@pytest.mark.parametrize("mark", [";", "\t"])
def test_as_spreadsheets_write_it(tmp_path: Path, mark: str) -> None:
    rows = [line.split(",", 3) for line in TREE.splitlines()]
    assert_is_tree(read(tmp_path, "".join(mark.join(row) + "\r\n" for row in rows), "utf-8-sig"))


def test_bad_rows_are_left_out_on_request(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_bytes(TREE.encode() + b"30,A,B,AGAIN\n7,A,B,\xe9\n,A,B,C\n8,A\n")
    skipped: list[str] = []
    assert_is_tree(read_categories(path, skipped))
    assert [line.split(":")[0] for line in skipped] == ["line 6", "line 7", "line 8", "line 9"]
    assert "category_id 30 was on line 2" in skipped[0]
    assert "not UTF-8" in skipped[1]
    with pytest.raises(UserError, match=r"bad_categories=skip") as error:
        read_categories(path)
    for line in skipped:
        assert line in str(error.value)


def test_a_flood_of_errors_is_cut(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 11: .*; and 15 more; correct"):
        read(tmp_path, HEADER + ",A,B,C\n" * 25)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"category_id,category_level3\n1,A\n", "1: no column category_level1, category_level2;"),
        (b"category_id,name\n1,A\n", "1: no column category_level1; the first line names"),
        (b"category_level1\nA\n", "1: no column category_id;"),
        (b"category_id,category_level1,category_id\n1,A,2\n", "1: several columns category_id;"),
        (
            b"category_id,%s\n" % b",".join(b"category_level%d" % n for n in range(1, 9)),
            "1: a tree has at most 6 levels; leave out the columns from category_level7 on",
        ),
        (b"", "1: no column category_id"),
        (HEADER.encode(), "no categories"),
        (HEADER.encode() + b"1,A,B,C\n2,A,B,\xe9\n", "3: not UTF-8"),
        (HEADER.encode() + b'1,A,B,"C\n', "2: "),
        (HEADER.encode("utf-16"), r"1: not UTF-8; save the file as UTF-8 \(it looks like UTF-16"),
        (HEADER.replace(",", "|").encode(), "between commas, semicolons or tabs; it is 'category_"),
        (b"", "it is empty"),
        (HEADER.encode() + b"1,A,B,C\n2,A,\0,C\n", "line 3: not UTF-8"),
        (b"1,A,B,C\n2,A,B,D\n", "1: no column category_id, .*; it is '1,A,B,C'"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "names.csv"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_categories(path)
    with pytest.raises(UserError, match="cannot read"):
        read_categories(tmp_path / "none.csv")


ROWS = [f"{i},A,B,NAME {i}" for i in range(2, 60)]  # each number is the row's line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({5: '5,A,B,"NAME'}, 5),
        ({5: '5,A,"B,NAME', 30: '30,A,B,"NAME"'}, 5),
        ({5: '5,A,"B,NAME', 30: '30,"A",B,NAME'}, 5),
        ({5: '5,"A,B,NAME', 30: '30,"",B,NAME'}, 5),
        ({59: '59,A,B,"'}, 59),
        ({7: "", 8: '8,A,B,"NAME" AGAIN'}, 8),
        ({3: '3,"A""",B,NAME', 9: '9,A,B,"NAME""'}, 9),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_quote_that_is_never_closed_is_named_where_it_begins(
    tmp_path: Path, changes: dict[int, str], line: int, newline: str
) -> None:
    rows = [changes.get(number, row) for number, row in enumerate(ROWS, 2)]
    with pytest.raises(UserError, match=rf"names\.csv:{line}: a quote that begins here") as error:
        read(tmp_path, newline.join([HEADER.strip(), *rows, ""]))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=rf"names\.csv:{line}: "):
        read_categories(tmp_path / "names.csv", [])


def test_a_quote_that_swallows_rows_is_a_bad_row(tmp_path: Path) -> None:
    rows = list(ROWS)
    rows[3], rows[5] = '5,A,B,"NAME', '7,X,Y,NAME"'
    with pytest.raises(UserError, match="line 5: a quote that begins here is closed on line 7"):
        read(tmp_path, HEADER + "\n".join(rows))
    skipped: list[str] = []
    ids = read_categories(tmp_path / "names.csv", skipped).ids.tolist()
    assert ids == [i for i in range(2, 60) if i not in (5, 6, 7)]
    assert len(skipped) == 1


def test_ids_of_text(tmp_path: Path) -> None:
    """Barcodes keep their zeros, and are in the order of text; data may have either kind."""
    categories = read(tmp_path, HEADER + "手机,A,B,C\n0040,A,B,D\n9,A,B,E\n10,A,B,F\n")
    assert categories.ids.tolist() == ["0040", "10", "9", "手机"]
    assert [names[2] for names in categories.names] == ["D", "F", "E", "C"]
    assert categories.class_of(np.array([9, 40, NO_CATEGORY, 10])).tolist() == [2, -1, -1, 1]
    assert categories.class_of(np.array(["9", "手机", "", "0040"])).tolist() == [2, 3, -1, 0]
    again = Categories.from_json(categories.to_json())
    assert again.ids.tolist() == categories.ids.tolist()
    assert path_of(again, 9) == ["A", "B", "E"]
    assert path_of(again, "0040") == ["A", "B", "D"]
    assert path_of(again, 40) == ["40"]


def test_integers_fit_data_of_text(tmp_path: Path) -> None:
    categories = read(tmp_path, HEADER + "9,A,B,C\n10,A,B,D\n")
    assert categories.ids.tolist() == [9, 10]
    assert categories.class_of(np.array(["10", "9", "09", ""])).tolist() == [1, 0, -1, -1]


def test_without_a_file_the_ids_are_the_classes() -> None:
    categories = categories_from_ids(np.array([10, NO_CATEGORY, 9, 10]))
    assert categories.ids.tolist() == [9, 10]
    assert categories.names == (("9",), ("10",))
    assert categories.groups.tolist() == [[0, 1]]
    assert Categories.from_json(categories.to_json()).groups.tolist() == [[0, 1]]
    with pytest.raises(UserError, match="no product has a category_id"):
        categories_from_ids(np.array([NO_CATEGORY]))


def test_the_tree_of_cdiscount(shared: Path) -> None:
    categories = read_categories(shared / "data" / "cdiscount" / "category_names.csv")
    # 483 distinct names at level 2; three recur under a second level 1.
    assert len({names[1] for names in categories.names}) == 483
    assert categories.levels() == (49, 486, 5270)
    assert np.all(np.diff(categories.ids) > 0)
