from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.fixtures import Run
from helpers.processes import json_lines
from helpers.refusals import refusal
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle


def test_a_video_is_run_frame_by_frame_and_annotated(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    from purify_edge.images.video import require

    cv2 = require()
    split = load_golden(Bundle.open(bundle_path))["clean"]
    clip, annotated, saved = tmp_path / "clip.avi", tmp_path / "new" / "annotated.mp4", tmp_path / "saved"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (280, 280))
    for image in split.images[:20]:
        writer.write(np.asarray(Image.fromarray(image[:, :, 0]).resize((280, 280), 0).convert("RGB")))
    writer.release()
    command = ("purify-run", bundle_path, clip, "--annotate", annotated, "--save", saved, "--json")
    code, out, err = run(*command)
    assert code == 0, err
    found = json_lines(out)
    assert [line["frame"] for line in found] == list(range(20))
    assert [line["time_s"] for line in found] == pytest.approx(np.arange(20) / 10, abs=0.02)
    expected = split.defended[:20].argmax(axis=1)
    assert (np.array([line["label"] for line in found]) == expected).mean() >= 0.8  # MJPEG loses a little
    assert sorted(path.name for path in (saved / "clip.avi").iterdir()) == [f"{index:06d}.png" for index in range(20)]
    capture = cv2.VideoCapture(str(annotated))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 20
    assert "exists; --force" in refusal(*run(*command))


@pytest.mark.parametrize("inputs", [["a.png"], ["a.mp4", "b.mp4"], ["."]])
def test_only_one_video_is_annotated(run: Run, bundle_path: Path, tmp_path: Path, inputs: list[str]) -> None:
    for name in ("a.png", "a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    inputs = [str(tmp_path / name) for name in inputs]
    said = refusal(*run("purify-run", bundle_path, *inputs, "--annotate", tmp_path / "out.mp4"))
    assert f"--annotate: expected one video, camera or stream as the only input, got {', '.join(inputs)}" in said
