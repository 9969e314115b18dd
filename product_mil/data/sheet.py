"""A contact sheet: products one below another, with their images, and words for all faults."""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from product_mil.data.duplicates import (
    ImageGroups,
    group_images,
    hashes_of,
    product_of_images,
    with_bytes,
)
from product_mil.data.products import pixels_of
from product_mil.files.outputs import Kind
from product_mil.files.whole import whole
from product_mil.sources.catalogue import Catalogue, Place
from product_mil.sources.categories import Categories
from product_mil.sources.ids import Id, has_id

THUMBNAIL_PX = 120
GAP_PX = 8
TEXT_WIDTH_PX = 250
CAPTION_PX = 30
LINE_PX = 14
_MARK = "product_mil"  # in the files of sheets
MAX_IMAGES = 12  # of a product; a line says how many more there are
RED = (200, 30, 30)
# Everybody can distinguish these on white, also the colour-blind (Okabe and Ito 2008).
FRAMES = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))


@dataclass
class Shown:
    """A product on the sheet."""

    lines: list[str]
    images: list[np.ndarray | str]  # pixels, or the reason why there are none
    captions: list[str]
    frames: list[tuple[int, int, int] | None]
    variants: list[list[np.ndarray | None]] = field(default_factory=list)  # one row for each step


class Book:
    """A catalogue with what a sheet says about each product and image."""

    def __init__(
        self, catalogue: Catalogue, categories: Categories | None, image_size_px: int
    ) -> None:
        self.catalogue, self._categories, self._size_px = catalogue, categories, image_size_px
        whole = np.flatnonzero(with_bytes(catalogue))
        groups: ImageGroups = group_images(
            hashes_of(catalogue)[whole], product_of_images(catalogue)[whole]
        )
        self._images, self._start = whole[groups.image_row], groups.start
        sizes = np.diff(groups.start, append=len(groups.image_row))
        self._group = np.full(catalogue.num_images_total, -1)  # of images that occur again
        self._group[self._images] = np.repeat(np.arange(len(sizes)), sizes)
        self._group[self._images[np.repeat(sizes, sizes) == 1]] = -1
        self._sizes = sizes
        self._faults: dict[Id, list[str]] = {}
        self._lost: dict[Place, str] = {}  # reasons of images that their records lack
        for path, fault in catalogue.faults:
            if fault.image_index is not None:
                self._lost[Place(str(path), fault.offset_bytes)] = fault.reason
            elif fault.product_id is not None:
                self._faults.setdefault(fault.product_id, []).append(fault.reason)

    def shares_images(self, product_row: int) -> bool:
        """Whether one of the product's images occurs again in the catalogue."""
        return any(self._group[image] >= 0 for image in self.catalogue.image_rows_of(product_row))

    def is_bad(self, product_row: int) -> bool:
        """Whether the record has a fault, or an image that cannot be read."""
        if self.catalogue.product_id[product_row].item() in self._faults:
            return True
        return any(
            isinstance(self.pixels(image), str)
            for image in self.catalogue.image_rows_of(product_row)
        )

    def pixels(self, image_row: int) -> np.ndarray | str:
        """The pixels of an image as training reads them, or the reason why it cannot."""
        if not self.catalogue.image_length_bytes[image_row]:
            lost = self._lost.get(self.catalogue.place_of_image(image_row))
            return lost or "the image has no bytes"
        return pixels_of(self.catalogue, image_row, self._size_px)

    def show(self, product_row: int) -> Shown:
        """Everything that the sheet draws for a product."""
        catalogue = self.catalogue
        images = self.catalogue.image_rows_of(product_row)
        lines = [f"product {catalogue.product_id[product_row]}", self._category(product_row)]
        count = "1 image" if len(images) == 1 else f"{len(images)} images"
        at = catalogue.place_of_product(product_row).offset_bytes
        lines.append(count if at is None else f"{count}, record at byte {at}")
        if len(images) > MAX_IMAGES:
            lines.append(f"the first {MAX_IMAGES} are shown")
            images = images[:MAX_IMAGES]
        faults = self._faults.get(catalogue.product_id[product_row].item(), [])
        lines += [f"! {reason}" for reason in faults]
        captions, frames = [], []
        for number, image in enumerate(images):
            others = self._others(image)
            length = int(catalogue.image_length_bytes[image])
            captions.append(f"{number}: {length / 1000:.1f} kB{others}")
            group = int(self._group[image])
            frames.append(FRAMES[group % len(FRAMES)] if group >= 0 else None)
        return Shown(lines, [self.pixels(image) for image in images], captions, frames)

    def _category(self, product_row: int) -> str:
        category_id = self.catalogue.category_id[[product_row]]
        if not has_id(category_id)[0]:
            return "no category"
        if self._categories is None:
            return f"category {category_id[0]}"
        class_index = int(self._categories.class_of(category_id)[0])
        if class_index < 0:
            return f"category {category_id[0]}, not in the category file"
        return f"{category_id[0]}: {' > '.join(self._categories.names[class_index])}"

    def _others(self, image_row: int) -> str:
        """A second line of the caption that says where an identical image is, or nothing."""
        group = int(self._group[image_row])
        if group < 0:
            return ""
        start = self._start[group]
        same = self._images[start : start + self._sizes[group]]
        other = int(same[same != image_row][0])
        product_row = self.catalogue.product_row_of(other)
        index = other - int(self.catalogue.first_image[product_row])
        more = f" +{len(same) - 2}" if len(same) > 2 else ""
        return f"\n= {self.catalogue.product_id[product_row]} #{index}{more}"


def _is_sheet(path: Path) -> bool:
    """Whether a PNG or JPEG file carries the mark that `save` leaves."""
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        mark = image.info.get("Software") or image.info.get("comment")
    return mark in (_MARK, _MARK.encode())


SHEET = Kind("a contact sheet", (".png", ".jpg", ".jpeg"), _is_sheet)


def save(sheet: Image.Image, path: Path) -> None:
    """Write the sheet as PNG or JPEG, by its name, with a mark that we made it.

    Raises:
        OSError: the file cannot be written.
        UserError: another file has appeared there.
    """
    with whole(path, SHEET) as file:
        if path.suffix.lower() == ".png":
            information = PngImagePlugin.PngInfo()
            information.add_text("Software", _MARK)
            sheet.save(file, "PNG", pnginfo=information)
        else:
            sheet.save(file, "JPEG", comment=_MARK)


def draw(products: list[Shown]) -> Image.Image:
    """The sheet: products one below another, each with its text, images and variants."""
    columns = max((len(product.images) for product in products), default=0)
    width = TEXT_WIDTH_PX + max(columns, 1) * (THUMBNAIL_PX + GAP_PX) + GAP_PX
    blocks = [_block(product, width) for product in products]
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _block(product: Shown, width: int) -> Image.Image:
    font = ImageFont.load_default(size=11)
    lines = [part for line in product.lines for part in textwrap.wrap(line, 40) or [""]]
    row_px = THUMBNAIL_PX + CAPTION_PX
    height = max(len(lines) * LINE_PX, row_px + len(product.variants) * (THUMBNAIL_PX + GAP_PX))
    block = Image.new("RGB", (width, height + 2 * GAP_PX), "white")
    pen = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        colour = RED if line.startswith("!") else "black"
        pen.text((GAP_PX, GAP_PX + number * LINE_PX), line, fill=colour, font=font)
    for number, image in enumerate(product.images):
        left, top = TEXT_WIDTH_PX + number * (THUMBNAIL_PX + GAP_PX), GAP_PX
        box = (left, top, left + THUMBNAIL_PX - 1, top + THUMBNAIL_PX - 1)
        if isinstance(image, str):
            pen.rectangle(box, outline=RED, width=2)
            reason = "\n".join(textwrap.wrap(image, 18)[:8])
            pen.multiline_text((left + 6, top + 6), reason, fill=RED, font=font)
        else:
            block.paste(_thumbnail(image), (left, top))
            if product.frames[number] is not None:
                pen.rectangle(box, outline=product.frames[number], width=4)
        caption = (left, top + THUMBNAIL_PX + 1)
        pen.multiline_text(caption, product.captions[number], fill="black", font=font, spacing=1)
        for step, variants in enumerate(product.variants):
            variant = variants[number]
            if variant is not None:
                place = (left, top + row_px + step * (THUMBNAIL_PX + GAP_PX))
                block.paste(_thumbnail(variant), place)
    pen.line((0, block.height - 1, width, block.height - 1), fill=(210, 210, 210))
    return block


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC)
