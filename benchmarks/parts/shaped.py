"""BSON files of Cdiscount's shape: ids, categories, 1 to 4 JPEGs of 180x180 px, 4.7 KB on average.

    python -m benchmarks.parts.shaped --output FILE [--products 100000]

The pictures are noise with the spectrum of photos, `--pictures` different ones, and recur; a
picture's bytes are made its own by a comment segment, as photos differ, so hashes differ too.
"""

import argparse
import struct
from pathlib import Path

import numpy as np
import simplejpeg
from tqdm import tqdm

IMAGES_SHARES = (4_369_441, 1_128_588, 542_792, 1_029_075)  # products with 1 to 4 images
SIZE_PX = 180


def num_images(products: int, seed: int = 0) -> np.ndarray:
    """Images of each product, in Cdiscount's shares, in random order."""
    shares = np.cumsum(IMAGES_SHARES) / sum(IMAGES_SHARES)
    counts = 1 + np.searchsorted(np.round(shares * products), np.arange(products), side="right")
    return np.random.default_rng(seed).permutation(counts)


def pictures(count: int, seed: int = 0) -> list[bytes]:
    """JPEGs whose sizes spread about 4,700 bytes, as those of flat and busy photos do."""
    rng = np.random.default_rng(seed)
    made = [_picture(rng, SIZE_PX, int(quality)) for quality in np.linspace(52, 93, count)]
    return [made[i] for i in rng.permutation(count)]


def _picture(rng: np.random.Generator, size_px: int, quality: int) -> bytes:
    frequency = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None, :])
    spectrum = (frequency + 0.5 / size_px) ** -1.6
    noise = rng.normal(size=(3, size_px, size_px // 2 + 1, 2)) @ np.array([1, 1j])
    layers = np.fft.irfft2(noise * spectrum, (size_px, size_px))
    layers /= layers.std(axis=(1, 2), keepdims=True)
    grey, *color = layers
    pixels = 150 + 45 * grey + 12 * np.stack([color[0], -color[0], color[1]])
    y, x = np.mgrid[-1 : 1 : size_px * 1j, -1 : 1 : size_px * 1j]
    pixels[:, (x / 0.85) ** 2 + (y / rng.uniform(0.3, 0.9)) ** 2 > 1] = 255  # a shop's white ground
    rgb = np.ascontiguousarray(np.clip(pixels, 0, 255).transpose(1, 2, 0).astype(np.uint8))
    return simplejpeg.encode_jpeg(rgb, quality=quality, colorsubsampling="420")


def write(
    path: Path, products: int, *, classes: int = 5270, different: int = 512, seed: int = 0
) -> tuple[int, int]:
    """Write the file; returns its images and bytes."""
    rng = np.random.default_rng(seed)
    counts = num_images(products, seed)
    category = 1_000_000_000 + 3 * rng.integers(0, classes, products)
    stock = pictures(different, seed)
    drawn = rng.integers(0, different, int(counts.sum())).tolist()
    image = 0
    with path.open("wb") as file, tqdm(total=products, desc=f"writing {path.name}") as bar:
        for product, (count, category_id) in enumerate(
            zip(counts.tolist(), category.tolist(), strict=True)
        ):
            images = b""
            for k in range(count):
                picture = stock[drawn[image]]
                comment = b"\xff\xfe\x00\x0a" + struct.pack(">q", image)
                data = picture[:2] + comment + picture[2:]
                body = b"\x05picture\0" + struct.pack("<iB", len(data), 0) + data + b"\0"
                images += b"\x03%d\0" % k + struct.pack("<i", len(body) + 4) + body
                image += 1
            body = b"\x10_id\0" + struct.pack("<i", product)
            body += b"\x10category_id\0" + struct.pack("<i", category_id)
            body += b"\x04imgs\0" + struct.pack("<i", len(images) + 5) + images + b"\0\0"
            file.write(struct.pack("<i", len(body) + 4) + body)
            if product % 1000 == 999:
                bar.update(1000)
    return image, path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="A BSON file of Cdiscount's shape")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=512)
    arguments = parser.parse_args()
    images, size = write(arguments.output, arguments.products, different=arguments.pictures)
    print(f"{arguments.output}: {arguments.products} products, {images} images, {size} bytes")


if __name__ == "__main__":
    main()
