import io
from pathlib import Path

import bson
import numpy as np
import pytest
from PIL import Image

from product_mil.cli import show_data
from product_mil.data import sheet as sheet_module
from product_mil.sources.sample.draw import SampleFiles


def sheet(*args: object) -> np.ndarray:
    show_data.main([str(arg) for arg in args])
    output = Path(str(args[list(args).index("--output") + 1]))
    return np.asarray(Image.open(output).convert("RGB"))


@pytest.fixture
def odd(sample: SampleFiles, tmp_path: Path) -> Path:
    """Two products with an image in common, one with a bad image, one without images."""
    photos = [r["imgs"][0]["picture"] for r in bson.decode_all(sample.train.read_bytes())[:6]]
    records = [
        [photos[0], photos[1]],
        [photos[2]],
        [photos[3], photos[0]],
        [b"noise", photos[4]],
        [],
    ]
    path = tmp_path / "odd.bson"
    path.write_bytes(
        b"".join(
            bson.encode({"_id": i, "category_id": 5, "imgs": [{"picture": p} for p in pictures]})
            for i, pictures in enumerate(records)
        )
    )
    return path


def has(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((pixels == np.asarray(colour, np.uint8)).all(-1).sum() > 100)


def test_products_stand_below_each_other_with_all_images(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sheet.png"
    pixels = sheet("--data", odd, "--output", output, "--which", "first")
    assert "5 of 5 products (first), 7 images, 1 of them unreadable" in capsys.readouterr().out
    side, gap = sheet_module.THUMBNAIL_PX, sheet_module.GAP_PX
    assert pixels.shape[1] == sheet_module.TEXT_WIDTH_PX + 2 * (side + gap) + gap
    assert has(pixels, sheet_module.RED)
    photo = bson.decode_all(odd.read_bytes())[1]["imgs"][0]["picture"]
    wanted = sheet_module._thumbnail(np.asarray(Image.open(io.BytesIO(photo))))
    height = len(pixels) // 5
    place = pixels[height + gap : height + gap + side, sheet_module.TEXT_WIDTH_PX :][:, :side]
    np.testing.assert_array_equal(place, np.asarray(wanted))


def test_what_is_chosen(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "sheet.png"
    for which, count, red, frame in (
        ("bad", 2, True, False), ("identical", 2, False, True), ("random", 5, True, True)
    ):  # fmt: skip
        pixels = sheet("--data", odd, "--output", output, "--which", which)
        assert f"{count} of 5 products ({which})" in capsys.readouterr().out
        assert has(pixels, sheet_module.RED) == red
        assert any(has(pixels, colour) for colour in sheet_module.FRAMES) == frame
    sheet("--data", odd, "--output", output, "--ids", "3,1")
    assert "2 of 5 products" in capsys.readouterr().out


def test_where_nothing_is_bad_this_is_said(
    sample: SampleFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = bson.decode_all(sample.train.read_bytes())[:2]
    good, output = tmp_path / "good.bson", tmp_path / "sheet.png"
    good.write_bytes(b"".join(map(bson.encode, records)))
    for which, what in (("bad", "has a fault"), ("identical", "shares an image")):
        arguments = ("--data", good, "--output", output, "--which", which)
        show_data.main(list(map(str, arguments)))
        assert capsys.readouterr().out == f"{good}: no product {what}, so nothing was drawn\n"
    assert not output.exists()


@pytest.mark.slow
def test_augmented_rows(odd: Path, tmp_path: Path) -> None:
    """With a sure reflection and nothing else, every row is the mirrored photo."""
    output = tmp_path / "sheet.png"
    pixels = sheet(
        "--data", odd, "--output", output, "--ids", "1", "--augmented", 2, "--augment", "flip=1"
    )
    side, gap, left = sheet_module.THUMBNAIL_PX, sheet_module.GAP_PX, sheet_module.TEXT_WIDTH_PX
    original = pixels[gap : gap + side, left : left + side].astype(int)
    for row in range(2):
        top = gap + side + sheet_module.CAPTION_PX + row * (side + gap)
        variant = pixels[top : top + side, left : left + side].astype(int)
        assert np.abs(variant - original[:, ::-1]).max() <= 1
        assert np.abs(variant - original).max() > 50
    one = sheet("--data", odd, "--output", output, "--ids", "1", "--augmented", 2)
    other = sheet("--data", odd, "--output", output, "--ids", "1", "--augmented", 2, "--seed", 1)
    np.testing.assert_array_equal(
        one, sheet("--data", odd, "--output", output, "--ids", "1", "--augmented", 2)
    )
    assert np.any(one != other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "sheet.txt"], "name a .png, .jpg or .jpeg file"),
        (["--output", "sheet.png", "--ids", "77"], "has no product 77"),
        (
            ["--output", "sheet.png", "--augment", "turn=3"],
            "finetune.augment.turn: there is no such",
        ),
        (["--output", "sheet.png", "--augment", "flip=3"], "must be from 0 to 1"),
        (["--output", "sheet.png", "--products", "0"], "must be from 1 to 2000"),
        (["--output", "no/sheet.png"], "there is no directory no"),
    ],
)
def test_mistakes_take_one_message(
    odd: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        show_data.main(["--data", str(odd), *options])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
