"""The study of engines and PyTorch side by side on a GPU: here an imitated one, and PyTorch on the CPU."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.fixtures import Imitate
from lab.studies import gpu
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import Limits
from purify_edge.errors import MissingError
from purify_edge.errors import MissingError as NoGpuError
from purify_edge.images.arrays import as_batch
from purify_export.networks import Networks


@pytest.fixture
def _exported(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is there stands for the one that the study exports."""
    monkeypatch.setattr(gpu, "export_run", lambda *_, **__: (Bundle.open(bundle_copy), None))


@pytest.mark.usefixtures("_exported")
def test_engines_on_the_gpu_take_turns_and_the_page_names_the_machine(
    imitate: Imitate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imitate(name="GeForce")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "gpu.md"
    gpu.main(["--batches", "1,2", "--rounds", "2", "--out", str(out)])
    text = out.read_text()
    assert "| devices | rtx on cuda:0 (GeForce) |" in text
    assert re.search(r"\| versions \| .*rtx 1\.[0-9.]+", text)
    timed = text[text.index("## Latency") :]
    for batch in "12":
        for precision in ("fp32", "fp16"):
            rows = rf"\| \*\*rtx {precision}, batch {batch}\*\* .*\n\| pipeline \| [0-9.]+ .*\n\| defended \| [0-9.]+ "
            assert re.search(rows, timed), (precision, batch)
    assert "2 calls of each stage, interleaved" in timed
    assert re.search(r"^rtx fp16:\n\n(\|.*\n)+", text, re.MULTILINE)
    assert "**adversarial, 256 images**" in text
    assert "onnxruntime fp" not in text  # it is on the CPU
    assert "- **PyTorch**: sees no GPU\n" in text
    assert "Broken limits" not in text


@pytest.mark.usefixtures("_exported")
def test_without_a_gpu_there_is_nothing_to_measure(imitate: Imitate) -> None:
    world = imitate()
    world.refuse_runtime = True
    with pytest.raises(
        MissingError, match=r"no engine runs on a GPU here.*rtx fp32: TensorRT for RTX .* does not start"
    ):
        gpu.main([])
    world.cuda.count = 0
    with pytest.raises(NoGpuError, match="needs an NVIDIA GPU and its driver"):
        gpu.main([])


@pytest.mark.usefixtures("_exported")
def test_an_engine_that_breaks_a_limit_ends_the_study_with_1(
    imitate: Imitate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imitate()
    monkeypatch.setattr(gpu, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(gpu, "Limits", lambda: Limits(min_agreement=2.0))
    with pytest.raises(SystemExit) as end:
        gpu.main(["--batches", "1", "--rounds", "1"])
    assert end.value.code == 1
    assert "| ✗ agreement, rtx fp32 classifier clean | 1 | 2 | broken |" in capsys.readouterr().out


def test_pytorchs_contestants_give_the_references_numbers(networks: Networks, bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    split = load_golden(bundle)["clean"]
    x = as_batch(split.images[:4], bundle.manifest.input)
    calls = gpu.torch_calls(networks.defended, torch.device("cpu"), compiled=False)
    assert [name[:2] for name in calls] == [("PyTorch", "fp32"), ("PyTorch", "fp16")]
    for (_, precision, _), call in calls.items():
        found = call(x)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, split.defended[:4], atol={"fp32": 1e-3, "fp16": 0.2}[precision])
    assert next(iter(networks.defended.parameters())).dtype == torch.float32  # the float16 one is a copy
