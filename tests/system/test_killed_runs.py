"""purify-run killed with -9 at random moments: the same command goes on, and every image is done exactly once."""

import json
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.fixtures import Start
from helpers.processes import wait_for
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle

IMAGES = 1500
KILLS = 4
PIPE_BYTES = 4096
PRECISION = "fp32"  # which one is chosen depends on what else the machine does


@pytest.fixture
def folder(bundle_path: Path, tmp_path: Path) -> Path:
    """Golden images on two levels, and two files that cannot be read."""
    pixels = load_golden(Bundle.open(bundle_path))["clean"].images
    root = tmp_path / "photos"
    for number in range(IMAGES):
        file = root / str(number % 7) / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number % len(pixels)][:, :, 0]).save(file)
    for name in ("1/broken.png", "6/broken.png"):
        (root / name).write_bytes(b"nonsense")
    return root


def test_every_image_is_done_exactly_once(start: Start, bundle_path: Path, folder: Path, tmp_path: Path) -> None:
    out, saved = tmp_path / "results.jsonl", tmp_path / "purified"
    command = ("purify-run", bundle_path, folder, "--out", out, "--save", saved, "--json", "--precision", PRECISION)
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    print(f"seed {seed}")

    def done() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    kept = 0
    for kill in range(KILLS):
        process = start(*command, pipesize=PIPE_BYTES)
        threading.Thread(target=process.communicate, daemon=True).start()  # it gets no further than it is read
        goal = kept + draw.randrange(1, IMAGES // (KILLS + 1))
        wait_for(lambda goal=goal, process=process: done() >= goal or process.poll() is not None)  # type: ignore[misc]
        time.sleep(draw.random() * 0.05)
        assert process.poll() is None, f"ended before kill {kill}"
        process.kill()
        process.wait()
        assert done() >= kept - 2  # nothing is lost but what could not be read, which is tried again
        kept = done()
    process = start(*command)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err  # for the two that cannot be read
    assert "were done before" in err

    results = [json.loads(line) for line in out.read_text().splitlines()]
    files = sorted(str(path) for path in folder.rglob("*.png"))
    assert sorted(result["file"] for result in results) == files
    assert sum("error" in result for result in results) == 2
    good = {result["file"]: result for result in results if "error" not in result}
    whole = sorted(str(path) for path in saved.rglob("*") if path.is_file())
    assert sorted(result["saved"] for result in good.values()) == whole
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["results.jsonl"]
    _check_answers(bundle_path, good)


def _check_answers(bundle_path: Path, results: dict[str, dict[str, object]]) -> None:
    """Each answer and each purified image belongs to its own file."""
    split = load_golden(Bundle.open(bundle_path))["clean"]
    with Pipeline.load(bundle_path, precision=PRECISION) as pipeline:
        expected = pipeline.predict(split.images)
    for file, result in results.items():
        row = int(Path(file).stem) % len(split)
        assert result["label"] == expected.labels[row]
        assert result["probability"] == pytest.approx(expected.probabilities[row].max(), abs=1e-5)
        with Image.open(str(result["saved"])) as image:
            assert np.abs(np.asarray(image) - 255 * expected.purified[row, 0]).max() <= 0.51
