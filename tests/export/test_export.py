"""From two modules that are not ours to a checked bundle, in one call."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import purify_edge
from helpers.trained import CLASSES, PREPROCESSING, SIDE, quadrants
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import InputContract
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.tensorrt.library import installed_builders
from purify_edge.errors import InputError
from purify_edge.machine import integers_may_saturate
from purify_edge.pipeline.pipeline import Pipeline
from purify_export.export import ExportResult, export
from purify_export.networks import flop_of

Own = tuple[nn.Module, nn.Module]
ROLES = ("purifier", "classifier", "defended")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SPLIT = quadrants(channels=3, count=300)
IMAGES, LABELS = SPLIT.images.permute(0, 2, 3, 1).numpy(), SPLIT.labels.numpy()


def test_a_bundle_has_every_part_and_every_part_verifies(exported: ExportResult, own: Own) -> None:
    path = exported.bundle.path
    manifest = Bundle.open(path).manifest
    assert exported.report.passed
    assert [(model.role, model.precision) for model in manifest.models] == [
        (role, precision) for precision in PRECISIONS for role in ROLES
    ]
    assert (manifest.input.channels, manifest.input.height, manifest.input.width) == (3, SIDE, SIDE)
    assert manifest.input.preprocessing == PREPROCESSING
    assert manifest.class_names == ("north-west", "north-east", "south-west", "south-east")
    assert (manifest.name, manifest.provenance) == ("own", {})
    assert manifest.golden.splits == {"clean": 256, "adversarial": 256, "noise": 256}
    assert manifest.golden.attack.startswith("PGD-20, Linf 0.1, step 0.0125, 1 random start")
    assert manifest.suspicion is not None
    assert (manifest.suspicion.n, manifest.suspicion.images) == (400 - 256, "images that the golden set leaves")
    counts = {role: flop_of(network, (3, SIDE, SIDE)) for role, network in zip(ROLES, own, strict=False)}
    for model in manifest.models:
        assert model.flop == counts.get(model.role, sum(counts.values()))
    entries = [model.file for model in manifest.models] + [engine.file for engine in manifest.engines]
    assert manifest.report is not None
    assert [page.path for page in manifest.pages] == ["report.html", "report.md"]
    assert manifest.golden.files is not None
    assert manifest.sbom is not None
    entries += [manifest.golden.file, manifest.golden.files, manifest.report, manifest.sbom, *manifest.pages]
    for entry in entries:
        assert len(exported.bundle.read(entry)) == entry.size_bytes
    found = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert found == {entry.path for entry in entries} | {"manifest.json"}


def test_every_graph_says_what_it_is(exported: ExportResult) -> None:
    manifest = exported.bundle.manifest
    assert manifest.suspicion is not None
    for model in exported.bundle.manifest.models:
        graph = onnx.load_model_from_string(exported.bundle.read(model.file))
        said = {entry.key.removeprefix("purify_edge."): entry.value for entry in graph.metadata_props}
        assert msgspec.json.decode(said.pop("input"), type=InputContract) == manifest.input
        assert {key: msgspec.json.decode(value) for key, value in said.items()} == {
            "name": "own",
            "version": version("purify-edge"),
            "class_names": list(manifest.class_names),
            "suspicion": {"score": "confident-change", "threshold": manifest.suspicion.threshold},
            "golden_sha256": manifest.golden.file.sha256,
            "spare": None,
        }


def test_the_report_holds_parity_of_every_model_and_pytorchs_latency(exported: ExportResult) -> None:
    rows = {(row.precision, row.role, row.split): row for row in exported.report.parity if row.engine != "simulation"}
    on_an_engine = {precision for precision, _, _ in rows}
    assert {"fp32", "fp16", "int8"} <= on_an_engine
    assert len(rows) == len(on_an_engine) * 5 * 3  # purifier, classifier, pipeline, defended, spared; on three splits
    assert [left.precision for left in exported.report.not_checked] == ([] if "bf16" in on_an_engine else ["bf16"])
    simulated = {"fp16", "bf16", "int8"} if integers_may_saturate() else {"fp16", "bf16"}
    assert {row.precision for row in exported.report.parity if row.engine == "simulation"} == simulated
    assert all(row.n == 256 for row in rows.values())
    assert [layer.reason for layer in exported.report.kept].count("first or last layer") == 4
    assert exported.report.attempts[-1].passed
    timed = {(row.engine == "pytorch", row.precision, row.stage, row.batch) for row in exported.report.latency}
    assert {(True, "fp32", "pipeline", 1), (False, "fp16", "defended", 32)} <= timed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_bundle_says_what_the_modules_say(exported: ExportResult, own: Own, precision: str) -> None:
    with torch.no_grad():
        expected = own[1](own[0](SPLIT.images / 255)).argmax(1).numpy()
    with Pipeline.load(exported.bundle.path, precision=precision, engine="onnxruntime") as pipeline:
        assert (pipeline.predict(IMAGES).labels == expected).mean() == 1


def test_its_golden_set_are_images_that_were_given_attacked_on_the_classifier(exported: ExportResult) -> None:
    golden = load_golden(exported.bundle)
    given = {image.tobytes() for image in quadrants(channels=3, count=400).images.permute(0, 2, 3, 1).numpy()}
    assert {image.tobytes() for image in golden["clean"].images} <= given
    clean, attacked = golden["clean"].images.astype(int), golden["adversarial"].images.astype(int)
    assert np.abs(attacked - clean).max() == 25  # floor(0.1 * 255)


@pytest.mark.skipif("tensorrt_rtx" not in installed_builders(), reason="tensorrt-rtx is not installed")
def test_engines_are_built_where_a_builder_is_installed(exported: ExportResult) -> None:
    manifest = exported.bundle.manifest
    assert {(engine.role, engine.precision, engine.builder) for engine in manifest.engines} == {
        (role, precision, "tensorrt_rtx") for precision in PRECISIONS[1:] for role in ROLES
    }
    models = {(model.role, model.precision): model.file.sha256 for model in manifest.models}
    for engine in manifest.engines:
        assert engine.fingerprint["onnx_sha256"] == models[engine.role, engine.precision]


def test_over_a_limit_it_is_marked_as_failed_and_kept_apart_and_what_is_there_stays(own: Own, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    options: Any = {"out": out, "fp16": False, "targets": ["onnx"], "rounds": 0}
    floats, few = SPLIT.images[:20] / 255, SPLIT.labels[:20]
    bundle, report = export(*own, floats, few, max_accuracy_drop=-0.5, **options)  # no accuracy can rise so far
    assert not report.passed
    assert bundle.path == tmp_path / "bundle.failed"
    assert bundle.manifest.failed
    assert all("accuracy drop" in name for name in bundle.manifest.failed)
    assert not out.exists()
    assert bundle.manifest.suspicion is None  # 20 images leave none to calibrate it
    golden = load_golden(bundle)["clean"]
    assert np.array_equal(golden.images, SPLIT.images[:20].permute(0, 2, 3, 1).numpy())  # floats rounded to 8 bits
    assert bundle.manifest.class_names == ("class 0", "class 1", "class 2", "class 3")
    out.mkdir()
    with pytest.raises(InputError, match=r"bundle exists; --force replaces it"):
        export(*own, floats, few, **options)


def test_calibration_images_are_taken_where_they_are_given(own: Own, tmp_path: Path) -> None:
    others = quadrants(channels=3, count=120, seed=5)
    bundle, report = export(
        *own,
        SPLIT.images[:20] / 255,
        SPLIT.labels[:20],
        out=tmp_path / "bundle",
        fp16=False,
        calibration=(others.images / 255, others.labels),
        targets=["onnx"],
        rounds=0,
    )
    assert report.passed
    assert bundle.manifest.suspicion is not None
    assert bundle.manifest.suspicion.n == 120
    assert report.latency == ()


class Constant(nn.Module):
    """Gives the same whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer


class Double(nn.Module):
    """Gives float64 at the end."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).double()


def given(own: Own, **changed: Any) -> dict[str, Any]:
    return {"purifier": own[0], "classifier": own[1], "images": IMAGES[:8], "labels": LABELS[:8]} | changed


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no module": ({"purifier": len}, "the purifier must be a torch.nn.Module, got builtin_function"),
    "training": ({"classifier": nn.Flatten().train()}, r"the classifier is in training mode.*classifier\.eval\(\)"),
    "half": (
        {"purifier": nn.Conv2d(3, 3, 1).half().eval()},
        r"in float32 on the CPU, its weight is torch.float16 on cpu; call purifier\.float\(\)\.cpu\(\)",
    ),
    "on another device": ({"purifier": nn.Conv2d(3, 3, 1, device="meta").eval()}, "on meta; call purifier"),
    "another shape": ({"purifier": nn.MaxPool2d(2).eval()}, r"must keep the shape \[2, 3, 12, 12\].*\[2, 3, 6, 6\]"),
    "no logits": ({"classifier": nn.Identity().eval()}, r"logits \[2, K\], K >= 2, .* it gives \[2, 3, 12, 12\]"),
    "no class": ({"classifier": Constant(torch.zeros(2, 0)).eval()}, r"it gives \[2, 0\]"),
    "two answers": ({"classifier": Constant((torch.zeros(2, 4),) * 2).eval()}, r"a tuple of float32 \[2, 4\], float32"),
    "doubles": ({"purifier": Double(nn.Identity()).eval()}, "must give float32 images, it gives torch.float64"),
    "labels": ({"classifier": Constant(torch.zeros(2, 4).long()).eval()}, r"gives int64 \[2, 4\], expected one tensor"),
    "the batch": (
        {"classifier": Constant(torch.zeros(2, 4)).eval()},
        "for images each alone than for the same 2 in one",
    ),
    "NaN": ({"classifier": Constant(torch.full((2, 4), torch.nan)).eval()}, "gives numbers that are not finite"),
    "another size": ({"images": IMAGES[:8, :6]}, "the classifier cannot take images of 6x12 with 3 channels: mat1"),
    "grey": ({"images": IMAGES[:8, :, :, :1]}, "the purifier cannot take images of 12x12 with 1 channels"),
    "channels first": ({"images": IMAGES[:8].transpose(0, 3, 1, 2)}, r"images must be uint8 \[N, H, W, C\] or floats"),
    "floats beyond 1": ({"images": SPLIT.images[:8].float()}, r"floats \[N, C, H, W\] in \[0, 1\].*got floats from 0"),
    "NaN pixels": ({"images": torch.full((8, 3, 12, 12), torch.nan)}, "got floats from nan to nan"),
    "integers": ({"images": IMAGES[:8].astype(np.int32)}, r"got torch.int32 \[8, 12, 12, 3\]"),
    "one image": ({"images": IMAGES[0]}, r"got torch.uint8 \[12, 12, 3\]"),
    "none": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "there is no image"),
    "text": ({"images": "photos"}, "images must be"),
    "other labels": ({"labels": LABELS[:7]}, "there are 8 images and 7 labels"),
    "fractions": ({"labels": LABELS[:8] / 2}, r"labels must be integers \[N\], got torch.float64 \[8\]"),
    "one-hot": (
        {"labels": np.eye(4, dtype=int)[LABELS[:8]]},
        r"labels must be integers \[N\], got torch.int64 \[8, 4\]",
    ),
    "beyond": ({"labels": np.arange(8) % 4 + CLASSES}, "labels must lie in 0 to 3, got 4 to 7"),
    "negative": ({"labels": np.arange(8) % 4 - 5}, "labels must lie in 0 to 3, got -5"),
    "names": ({"class_names": ["a", "b"]}, "the classifier has 4 classes, class_names has 2 names"),
    "epsilon": ({"epsilon": 25}, r"the attack cannot be made with .*epsilon"),
    "calibration": ({"calibration": (IMAGES[:8, :10], LABELS[:8])}, r"of the shape \[3, 12, 12\], got \[3, 10, 12\]"),
    "int8": ({"int8": True}, "INT8 is calibrated on 32 images or more .* leaves 0; give more images"),
    "target": ({"targets": ["abacus"]}, "no target 'abacus'; known: onnx, tensorrt, rtx"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(own: Own, tmp_path: Path, case: str) -> None:
    changed, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        export(**given(own, **{"targets": ["onnx"]} | changed), out=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_logits_of_another_float_type_are_cast_in_the_graph(own: Own, tmp_path: Path) -> None:
    pair = own[0], Double(own[1]).eval()
    bundle, report = export(*pair, IMAGES, LABELS, out=tmp_path / "bundle", fp16=True, targets=["onnx"], rounds=0)
    assert report.passed
    for precision in ("fp32", "fp16"):
        graph = onnx.load(bundle.path / "models" / f"defended.{precision}.onnx").graph
        assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_runtime_gives_it_by_name() -> None:
    assert purify_edge.export is export
    assert "export" not in purify_edge.__all__  # `import *` must work without the extra


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import purify_edge; purify_edge.export"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert "MissingError: needs 'export': pip install 'purify-edge[export]' (torch is not installed)" in done.stderr
