import csv
import hashlib
import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.photographs import crops
from lab.photographs.crops import LIST, WAYS, opened, photographs, picture_in, tries, write_crops
from purify_edge.errors import InputError
from purify_toolkit.networks.architectures import Purifier
from purify_toolkit.recipe import find_recipe, parse_recipe
from purify_toolkit.train.warm_start import start_from


def picture(seed: int, size: tuple[int, int] = (320, 260), mode: str = "RGB", kind: str = "PNG") -> bytes:
    """Return the file of a random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def test_each_photograph_is_in_one_part_and_crops_come_out_the_same(tmp_path: Path) -> None:
    pictures = [picture(seed) for seed in range(100)]
    for name in ("a", "b"):
        write_crops(pictures.copy(), tmp_path / name, WAYS[128])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jpg"))
    counts = {part: sum(path.parts[0] == part for path in files) for part in ("train", "validation", "test")}
    assert counts == {"train": 37 * 30, "validation": 30 * 10, "test": 33 * 3}
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
    assert Image.open(tmp_path / "a" / files[0]).size == (128, 128)
    order = list(range(100))
    random.Random(crops.SEED).shuffle(order)
    assert set(order[:33]).isdisjoint(order[63:])


def test_flat_pictures_give_no_crops_and_transparent_ones_are_on_white(tmp_path: Path) -> None:
    flat = io.BytesIO()
    Image.new("RGB", (300, 300), "red").save(flat, "PNG")
    write_crops([flat.getvalue()] * 3, tmp_path / "out", WAYS[224])
    assert not list(tmp_path.rglob("*.jpg"))
    clear = io.BytesIO()
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(clear, "PNG")
    assert opened(clear.getvalue()).getpixel((0, 0)) == (255, 255, 255)


def test_crops_are_no_larger_than_the_picture() -> None:
    image = opened(picture(0, size=(150, 400)))
    assert all(crop.size == (224, 224) for crop in tries(image, WAYS[224], random.Random(0)))


def test_files_are_checked_and_found_inside_resources(tmp_path: Path) -> None:
    first, second = picture(1), picture(2, kind="WEBP")
    blob = b"qres" + b"".join(len(content).to_bytes(4, "big") + content for content in (first, second))
    assert [picture_in(blob, index) for index in (0, 1)] == [first, second]
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "all.rcc").write_bytes(blob)
    listed = tmp_path / "list.csv"
    digest = hashlib.sha256(second).hexdigest()
    listed.write_text(f"package,version,path,sha256\ngames,1,all.rcc#1,{digest}\n")
    assert photographs(tmp_path, listed) == [second]
    (tmp_path / "games" / "all.rcc").write_bytes(blob + first)
    listed.write_text(f"package,version,path,sha256\ngames,1,all.rcc#0,{digest}\n")
    with pytest.raises(InputError, match="is another file; expected games 1"):
        photographs(tmp_path, listed)
    listed.write_text("package,version,path,sha256\ngames,1,absent.png,00\n")
    with pytest.raises(InputError, match="expected the package games 1"):
        photographs(tmp_path, listed)


def test_the_list_names_each_photograph_once() -> None:
    rows = list(csv.DictReader(LIST.open()))
    assert len({row["sha256"] for row in rows}) == len(rows) == 292


def test_the_first_half_of_the_light_purifier_is_a_recipe_of_its_size() -> None:
    path = LIST.parent / "small-pictures.toml"
    first, second = (parse_recipe(file.read_text(), source=file.name) for file in (path, find_recipe("photos")))
    assert first.student.network == second.student.network
    assert not first.teachers
    start_from(Purifier(3, **second.student.network), second.student)
