import errno
import logging
import os
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from product_mil.data.decode import decode_images
from product_mil.data.faults import FaultList
from product_mil.data.products import ImageFault
from product_mil.errors import UserError
from product_mil.sources import image_files, image_reader
from product_mil.sources.catalogue import Unread
from product_mil.sources.ids import NO_CATEGORY
from product_mil.sources.opening import check_sources, open_catalogue, source_files
from tests.sources.of_products import (
    PRODUCTS,
    Product,
    as_contents,
    contents,
    folder,
    jpeg,
)


def test_the_names_of_folders_are_the_ids(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    for spec in (str(root), f"{root}/", root):
        found = open_catalogue(spec)
        assert found.product_id.tolist() == [7, 8, 9, 11]  # as numbers: 9 comes before 11
        assert contents(found) == as_contents()
    assert found.paths == (root,)
    assert found.place_of_image(2) == (str(root / "1000" / "8" / "0.jpg"), None)
    check_sources(str(root))


def test_names_that_are_no_numbers(tmp_path: Path) -> None:
    products = [Product("a 1", "Caf\N{LATIN SMALL LETTER E WITH ACUTE}", [jpeg(1)])]
    products.append(Product("007", "Bags", [jpeg(2)]))
    assert contents(open_catalogue(folder(tmp_path / "x", products))) == as_contents(products)


def test_images_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    place = tmp_path / "photos" / "cup" / "1"
    place.mkdir(parents=True)
    names = ["front.JPG", "img2.jpeg", "img10.png", "img011.gif", "IMG11.webp"]
    for name in reversed(names):
        (place / name).write_bytes(name.encode())
    found = open_catalogue(tmp_path / "photos")
    assert str(found.place_of_image(0)).endswith("front.JPG")  # no byte: the file is the image
    shown = [Path(found.place_of_image(row).file).name for row in range(5)]
    assert shown == names


def test_other_files_are_ignored_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "photos")
    for name in (".DS_Store", "Thumbs.db", "readme.txt", "1000/notes.txt", "1000/7/.0.jpg"):
        (root / name).write_bytes(b"x")
    (root / "__MACOSX" / "1000" / "7").mkdir(parents=True)
    (root / "__MACOSX" / "1000" / "7" / "0.jpg").write_bytes(b"x")
    os.mkfifo(root / "1000" / "7" / "pipe.jpg")
    with caplog.at_level(logging.INFO):
        assert contents(open_catalogue(root)) == as_contents()
    assert "4 products of 2 categories, 7 images; 7 other files ignored, such as" in caplog.text


def test_products_of_one_name_in_two_categories(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "photos", [Product(1, "cup", [jpeg(1)]), Product(1, "bag", [jpeg(2)])])
    folder(root, [Product(2, "bag", [jpeg(3)])])
    with caplog.at_level(logging.INFO):
        assert open_catalogue(root).product_id.tolist() == ["bag/1", "bag/2", "cup/1"]
    assert "ids are both names" in caplog.text


def test_labels_of_folders_without_categories(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "photos", flat=True)
    with caplog.at_level(logging.INFO):
        bare = open_catalogue(root)
    assert (bare.category_id == NO_CATEGORY).all()
    assert "no labels.csv, so no product has a category" in caplog.text
    labels = "product_id;category\n7;1000\n8;1000\n9;2000\n11;2000\n12;3000\n"
    (root / "labels.csv").write_text(labels)
    with caplog.at_level(logging.INFO):
        assert contents(open_catalogue(root)) == as_contents()
    assert "7 images; labels of" in caplog.text
    assert "1 of its products have no folder: 12\n" in caplog.text  # and no file is ignored
    (tmp_path / "others.csv").write_text("_id,category_id\n7,5\n9,\n")
    spec = f"{root}#{tmp_path / 'others.csv'}"
    assert open_catalogue(spec).category_id.tolist() == [5] + [NO_CATEGORY] * 3
    assert source_files(spec) == [root, tmp_path / "others.csv"]
    assert source_files(root) == [root, root / "labels.csv"]
    (root / "labels.csv").write_text("_id,category_id\nseven,1\n")
    with pytest.raises(UserError, match="none of its products, such as seven, is a folder"):
        open_catalogue(root)
    for text, message in (
        ("", "names no columns in its first line"),
        ("name,category\n7,1\n", "which column holds the id.* call it _id"),
        ("_id,name\n7,1\n", "has no column of categories; call it category_id"),
        ("_id,category_id\n", "no row has an id in its column _id"),
    ):
        (root / "labels.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            open_catalogue(root)
    with pytest.raises(UserError, match=r"none\.csv: no such file; name a CSV"):
        open_catalogue(f"{root}#none.csv")
    with_categories = folder(tmp_path / "others")
    with pytest.raises(UserError, match="its folders name the categories already"):
        open_catalogue(f"{with_categories}#{tmp_path / 'others.csv'}")


def test_labels_that_fit_no_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(tmp_path / "photos", flat=True)
    rows = ["_id,category_id", "7,1", "008,1", "9,2", "x,1", "0011,2", "y,2", "8,1"]
    (root / "labels.csv").write_text("\n".join(rows))
    with caplog.at_level(logging.INFO):
        found = open_catalogue(root)
    assert found.category_id.tolist() == [1, 1, 2, NO_CATEGORY]
    assert (
        "4 of its products have no folder: 008 (did you mean 8?), x, "
        "0011 (did you mean 11?), ...\n" in caplog.text
    )
    (root / "labels.csv").write_text("_id,category_id\n007,1\n")
    with pytest.raises(UserError, match=r"such as 007 \(did you mean 7\?\), is a folder of"):
        open_catalogue(root)


def test_labels_that_contradict_each_other(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", flat=True)
    labels = root / "labels.csv"
    labels.write_text("_id,category_id\n7,1\n8,1\n7,2\n8,1\n9,2\n11,2\nx,1\nx,2\n")
    found = open_catalogue(root)
    assert found.category_id.tolist() == [1, 1, 2, 2]
    reason = "rows of several categories: the first one counts"
    assert found.faults == [(labels, (None, 7, reason, None))]
    labels.write_text("_id,category_id\n7,1\n8,1\n9,2\n11,2\n")
    again = open_catalogue(root)
    assert (again.category_id.tolist(), again.faults) == ([1, 1, 2, 2], [])


def test_labels_here_and_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = folder(Path("photos"), flat=True)
    here, inside = Path("lab.csv"), root / "lab.csv"
    inside.write_text("_id,category_id\n7,1\n")
    assert source_files("photos/#lab.csv") == [root, inside]
    here.write_text("_id,category_id\n7,1\n")
    assert source_files("photos/#lab.csv") == [root, here]
    here.write_text("_id,category_id\n7,2\n")
    with pytest.raises(UserError) as error:
        open_catalogue("photos/#lab.csv")
    places = f"{tmp_path}/lab.csv and {tmp_path}/photos/lab.csv"
    assert str(error.value) == f"photos#lab.csv: {places} differ; name it by its path"
    for path, category in ((here.absolute(), 2), (inside, 1), (inside.absolute(), 1)):
        assert open_catalogue(f"photos/#{path}").category_id[0] == category


def test_labels_that_are_not_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(tmp_path / "photos")
    (root / "labels.csv").write_text("_id,category_id\n7,1\n")
    with caplog.at_level(logging.INFO):
        assert contents(open_catalogue(root)) == as_contents()
    assert f"{root}/labels.csv is not used, because the folders name the categories" in caplog.text


def test_folders_without_images_are_products_too(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", [*PRODUCTS, Product(12, 2000, [])])
    (root / "3000").mkdir()  # a category without products
    found = open_catalogue(root)
    assert found.num_images.tolist() == [2, 1, 3, 1, 0]
    assert found.fault_counts == {"the folder has no image": 1}
    assert found.faults[0] == (root / "2000" / "12", (None, 12, "the folder has no image", None))
    assert found.place_of_product(4).file == str(root)


def test_names_that_cannot_be_ids_are_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    others = ["1000/" + "x" * 201, "1000/" + os.fsdecode(b"caf\xe9"), "y" * 201 + "/1"]
    for name in others:
        (root / name).mkdir(parents=True)
        (root / name / "0.jpg").write_bytes(jpeg(9))
    found = open_catalogue(root)
    assert contents(found) == as_contents()
    assert found.num_bad_records == 3
    assert found.fault_counts == {"no usable folder name": 3}
    assert {path for path, _ in found.faults} == {root / name for name in others}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", PRODUCTS[:2])
    folder(tmp_path / "other", PRODUCTS[2:])
    (root / "2000").symlink_to(tmp_path / "other" / "2000")
    (root / "1000" / "again").symlink_to(root / "1000")
    (root / "1000" / "7" / "1.jpg").unlink()
    (root / "1000" / "7" / "1.jpg").symlink_to(tmp_path / "one.jpg")
    (tmp_path / "one.jpg").write_bytes(PRODUCTS[0].images[1])
    assert contents(open_catalogue(root)) == as_contents()


def test_links_to_images_that_are_not_there_are_listed(tmp_path: Path) -> None:
    """As git-annex leaves them where a file has not been fetched."""
    root = folder(tmp_path / "photos")
    lost = [root / "1000" / "7" / "2.jpg", root / "1000" / "7" / "3.jpg"]
    lost[0].symlink_to(tmp_path / "gone.jpg")
    lost[1].symlink_to("3.jpg")
    found = open_catalogue(root)
    assert [path for path, _ in found.faults] == lost
    assert found.fault_counts == {"the file cannot be read here": 2}
    assert found.num_images_total == sum(len(product.images) for product in PRODUCTS) + 2
    for image in root.glob("*/*/*"):
        image.unlink()
        image.symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match=r"but \d+ links to files that are not there, such as"):
        open_catalogue(root)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], r"photos has no image; name a folder of FOLDER/CATEGORY/PRODUCT/IMAGE\.jpg or"),
        (["a.txt"], r"but 1 other files, such as \S*a\.txt; name a folder of"),
        (["1.jpg"], r"1\.jpg lies in the folder itself; images must lie as"),
        (["a/b/c/1.jpg"], r"1\.jpg lies too deep; images must lie as"),
        (["a/1.jpg", "a/b/2.jpg"], r"different depths, such as \S*a/1\.jpg and \S*a/b/2\.jpg; all"),
    ],
)
def test_other_layouts_are_refused_in_a_line(
    tmp_path: Path, images: list[str], message: str
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    with pytest.raises(UserError, match=message) as error:
        open_catalogue(root)
    assert "\n" not in str(error.value)


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read = folder(tmp_path / "photos"), []
    real = image_files.ImageReader.read_file
    monkeypatch.setattr(
        image_files.ImageReader,
        "read_file",
        lambda self, name: read.append(name) or real(self, name),
    )
    first = open_catalogue(root)
    assert len(read) == 7
    again = open_catalogue(root)
    assert len(read) == 7
    assert again.fingerprint == first.fingerprint
    # A damaged column is made again, and so are those of an older state.
    stored = again.stored  # pyright: ignore[reportAttributeAccessIssue]
    whole = (stored / "image_hash.npy").read_bytes()
    (stored / "image_hash.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert contents(open_catalogue(root)) == as_contents()
    assert (stored / "image_hash.npy").read_bytes() == whole
    (root / "1000" / "8" / "0.jpg").write_bytes(jpeg(77))
    changed = open_catalogue(root)
    assert contents(changed)[8] == (1000, [jpeg(77)])
    assert changed.fingerprint != first.fingerprint
    assert not stored.exists()


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read = folder(tmp_path / "photos"), []
    real = image_files.ImageReader.read_file
    open_catalogue(root)
    monkeypatch.setattr(
        image_files.ImageReader,
        "read_file",
        lambda self, name: read.append(name.decode()) or real(self, name),
    )
    (root / "1000" / "8" / "0.jpg").write_bytes(jpeg(77))
    (root / "1000" / "7" / "00.jpg").write_bytes(jpeg(78))
    (root / "2000" / "9" / "1.jpg").rename(root / "2000" / "9" / "5.jpg")
    touched = root / "2000" / "9" / "0.jpg"
    os.utime(touched, ns=(1, 1))
    found = open_catalogue(root)
    wanted = ["1000/7/00.jpg", "1000/8/0.jpg", "2000/9/0.jpg", "2000/9/5.jpg"]
    assert sorted(read) == wanted
    # As if all had been read.
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "other"))
    anew = open_catalogue(root)
    assert found.fingerprint == anew.fingerprint
    assert (contents(found), found.faults) == (contents(anew), anew.faults)
    read.clear()
    (root / "1000" / "8" / "0.jpg").unlink()
    open_catalogue(root)
    assert read == []


def test_what_is_no_image_is_read_again_and_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is not kept beside its hash."""
    root, read = folder(tmp_path / "photos"), []
    (root / "1000" / "7" / "1.jpg").write_bytes(bytes(50))
    before = open_catalogue(root)
    real = image_files.ImageReader.read_file
    monkeypatch.setattr(
        image_files.ImageReader,
        "read_file",
        lambda self, name: read.append(name.decode()) or real(self, name),
    )
    (root / "1000" / "8" / "0.jpg").write_bytes(jpeg(77))
    found = open_catalogue(root)
    assert sorted(read) == ["1000/7/1.jpg", "1000/8/0.jpg"]
    assert found.faults == before.faults != []


def test_files_that_vanish_or_change_are_unread(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos")
    found = open_catalogue(root)
    (root / "1000" / "7" / "0.jpg").unlink()
    (root / "1000" / "7" / "1.jpg").write_bytes(b"other")
    gone, changed, fine = found.read(np.arange(3))
    assert gone == Unread("No such file or directory")
    assert changed == Unread("it holds other bytes than were indexed; start again")
    assert fine == PRODUCTS[1].images[0]


def test_a_file_that_cannot_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "photos")
    real = image_files.ImageReader.read_file
    monkeypatch.setattr(
        image_files.ImageReader,
        "read_file",
        lambda self, name: Unread("Permission denied") if b"9/1" in name else real(self, name),
    )
    found = open_catalogue(root)
    assert found.image_length_bytes[4] == 0
    reason = "the file cannot be read here: Permission denied"
    assert found.faults == [(root / "2000" / "9" / "1.jpg", (None, 9, reason, 1))]
    monkeypatch.undo()
    again = open_catalogue(root)
    assert (again.faults, contents(again)) == ([], as_contents())


def test_what_is_no_image_is_named_as_decoding_does(tmp_path: Path) -> None:
    mixed = [b"hello\n", b"", b"%PDF-1.4\n", bytes(5000), b"\xff\x0a" + bytes(99), b"PK\x03\x04"]
    mixed += [b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), b"<!DOCTYPE html><p>", b"\xff\xfeh\0"]
    found = open_catalogue(folder(tmp_path / "x", [Product(1, 2, [jpeg(1), *mixed])]))
    reasons = [fault.reason for _, fault in found.faults]
    decoded = decode_images(found.read(np.arange(1, 10)), list(np.zeros((9, 8, 8, 3), np.uint8)))
    assert reasons == [decoded[number] for number in range(9)]
    assert reasons[0] == "not a readable image: it is a text that begins with 'hello'"
    assert found.faults[8] == (tmp_path / "x/2/1/9.jpg", (None, 1, reasons[8], 9))
    listed = FaultList(None)
    listed.add_records(found)
    for number, reason in decoded.items():
        place = found.place_of_image(1 + number)
        listed.add([ImageFault(*place, 1, 1 + number, reason)])
    assert len(listed) == 9


def test_what_may_be_an_image_is_left_to_decoding(tmp_path: Path) -> None:
    images = []
    for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        file = BytesIO()
        Image.new("RGB", (9, 9)).save(file, name)
        images.append(file.getvalue())
    images += [images[0][:40], b"\x01\x02\x03", b"\0\0\0\x1cftypavif" + bytes(16)]
    found = open_catalogue(folder(tmp_path / "x", [Product(1, 2, images)]))
    assert (found.num_images.tolist(), found.fault_counts) == ([9], {})


def test_another_process_opens_the_same(tmp_path: Path) -> None:
    found = open_catalogue(folder(tmp_path / "photos"))
    assert contents(pickle.loads(pickle.dumps(found))) == as_contents()
    rows = np.array([6, 0])
    reader = pickle.loads(pickle.dumps(found.reader()))
    addresses = pickle.loads(pickle.dumps(found.addresses(rows)))
    assert list(reader.read(addresses)) == [jpeg(1), jpeg(1)]


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    root = folder(tmp_path / "photos")
    found = open_catalogue(root)
    assert contents(found) == as_contents()
    assert "sources cannot be written (Not a directory)" in caplog.text
    again = open_catalogue(root)
    assert again.stored == found.stored  # pyright: ignore[reportAttributeAccessIssue]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(
        UserError, match=r"cannot write .*: No space left on device; free some spac"
    ):
        open_catalogue(folder(tmp_path / "photos"))


def test_a_file_that_is_too_large_for_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "photos")
    monkeypatch.setattr(image_reader, "_MAX_BYTES", 10)
    found = open_catalogue(root)
    assert list(found.read(np.array([0]))) == [Unread("it has more than 10 bytes")]
