"""Cut square crops from photographs that packages of Debian 12 carry, to train a purifier on and to judge it.

Usage: python -m lab.photographs.crops PACKAGES OUT [--size 128|224]

PACKAGES holds a folder for each package in photographs.csv, of the version there (`apt-get download NAME`, then
`dpkg-deb -x FILE PACKAGES/NAME`). The same size gives the same crops every time; each photograph is in one part alone,
train, validation or test, the same for both sizes. No crop is flat. usr/share/doc/*/copyright has the licences.
"""

import argparse
import csv
import hashlib
import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lab.studies.common import guarded
from purify_edge.errors import InputError

LIST = Path(__file__).parent / "photographs.csv"
PICTURE = re.compile(rb"\xff\xd8\xff|RIFF....WEBP|\x89PNG\r\n\x1a\n", re.DOTALL)
FLAT = 18  # grey levels of standard deviation
SEED = 18
VALIDATION = 30  # photographs


@dataclass(frozen=True)
class Way:
    """How to cut: a crop's side, the smallest share of the photograph and side, JPEG's quality, how many of each."""

    size: int
    share: float
    least: int
    quality: int
    mirrored: bool
    each: dict[str, int]


WAYS = {
    128: Way(128, 0.3, 160, 95, True, {"test": 3, "validation": 10, "train": 30}),
    224: Way(224, 0.45, 200, 94, False, {"test": 12, "validation": 10, "train": 14}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write OUT/PART/PHOTOGRAPH_CROP.jpg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, choices=WAYS, default=128)
    options = parser.parse_args(arguments)
    if options.out.exists():
        raise InputError(f"{options.out} exists; name another folder, or remove it")
    write_crops(photographs(options.packages), options.out, WAYS[options.size])


def photographs(packages: Path, listed: Path = LIST) -> list[bytes]:
    """Return the files of the list, each checked; raise InputError where one is missing or another one."""
    found = []
    with listed.open(newline="") as file:
        for row in csv.DictReader(file):
            name, _, member = row["path"].partition("#")
            try:
                content = (packages / row["package"] / name).read_bytes()
            except OSError as error:
                raise InputError(f"{error}; expected the package {row['package']} {row['version']}") from error
            content = picture_in(content, int(member)) if member else content
            if hashlib.sha256(content).hexdigest() != row["sha256"]:
                raise InputError(f"{row['path']} is another file; expected {row['package']} {row['version']}")
            found.append(content)
    return found


def picture_in(resources: bytes, index: int) -> bytes:
    """Return a picture of a file of Qt's resources, the index-th that begins like one; its length is before it."""
    place = [match.start() for match in PICTURE.finditer(resources)][index]
    return resources[place : place + int.from_bytes(resources[place - 4 : place], "big")]


def write_crops(pictures: list[bytes], out: Path, way: Way) -> None:
    """Write the crops of all pictures: a third of these for the test, the next for validation, the rest to train."""
    rng = random.Random(SEED)
    rng.shuffle(pictures)
    third = len(pictures) // 3
    bounds = {"test": (0, third), "validation": (third, third + VALIDATION), "train": (third + VALIDATION, None)}
    for part, (first, end) in bounds.items():
        (out / part).mkdir(parents=True)
        for number, content in enumerate(pictures[first:end]):
            image = opened(content)
            for count in range(way.each[part]):
                crop = next(
                    (crop for crop in tries(image, way, rng) if np.asarray(crop.convert("L")).std() > FLAT), None
                )
                if crop is None:
                    continue
                if way.mirrored and rng.random() < 0.5:
                    crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                crop.save(out / part / f"{number:03d}_{count:02d}.jpg", quality=way.quality)


def opened(content: bytes) -> Image.Image:
    """Return a picture in RGB, on white where it is transparent."""
    Image.MAX_IMAGE_PIXELS = None
    image: Image.Image = Image.open(io.BytesIO(content))
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def tries(image: Image.Image, way: Way, rng: random.Random) -> Iterator[Image.Image]:
    """Yield up to ten random crops."""
    width, height = image.size
    for _ in range(10):
        side = min(width, height, max(way.least, int(min(width, height) * rng.uniform(way.share, 1))))
        left, top = rng.randint(0, width - side), rng.randint(0, height - side)
        box = (left, top, left + side, top + side)
        yield image.resize((way.size, way.size), Image.Resampling.BICUBIC, box=box)


if __name__ == "__main__":
    guarded(main)
