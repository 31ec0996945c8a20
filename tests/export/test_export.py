import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.tensorrt.library import installed_builders
from purify_edge.errors import InputError
from purify_edge.pipeline.pipeline import Pipeline
from purify_export.export import export_run
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import FOLDER, open_run


def test_a_bundle_has_every_part_and_every_part_verifies(bundle_path: Path, shipped: RunFolder) -> None:
    bundle = Bundle.open(bundle_path)
    manifest = bundle.manifest
    assert [(model.role, model.precision) for model in manifest.models] == [
        (role, precision) for precision in ("fp32", "fp16") for role in ("purifier", "classifier", "defended")
    ]
    assert (manifest.input.channels, manifest.input.height, manifest.input.width) == (1, 28, 28)
    assert list(manifest.class_names) == shipped.info["class_names"]
    assert manifest.golden.splits == {"clean": 256, "adversarial": 256, "noise": 256}
    assert manifest.provenance["run"] == shipped.info
    assert manifest.provenance["metrics"]["rows"][0]["n"] == 10_000
    entries = [model.file for model in manifest.models] + [engine.file for engine in manifest.engines]
    assert manifest.report is not None
    assert [page.path for page in manifest.pages] == ["report.html", "report.md"]
    entries += [manifest.golden.file, manifest.report, *manifest.pages]
    for entry in entries:
        assert len(bundle.read(entry)) == entry.size_bytes
    found = {str(path.relative_to(bundle_path)) for path in bundle_path.rglob("*") if path.is_file()}
    assert found == {entry.path for entry in entries} | {"manifest.json"}


@pytest.mark.skipif("tensorrt_rtx" not in installed_builders(), reason="tensorrt-rtx is not installed")
def test_engines_are_built_where_a_builder_is_installed(bundle_path: Path) -> None:
    manifest = Bundle.open(bundle_path).manifest
    assert [(engine.role, engine.precision, engine.builder) for engine in manifest.engines] == [
        (role, "fp16", "tensorrt_rtx") for role in ("purifier", "classifier", "defended")
    ]
    models = {(model.role, model.precision): model.file.sha256 for model in manifest.models}
    for engine in manifest.engines:
        assert engine.fingerprint["onnx_sha256"] == models[engine.role, engine.precision]


def test_the_report_holds_parity_of_every_file_and_beside_it_pytorchs_latency(bundle_path: Path) -> None:
    report = json.loads((bundle_path / "report.json").read_text())
    assert report["passed"] is True
    rows = {(row["precision"], row["role"], row["split"]): row for row in report["parity"]}
    assert len(rows) == 2 * 4 * 3
    for (_, role, _), row in rows.items():
        assert row["n"] == 256
        assert (row["agreement"] is None) == (role == "purifier")
        if role != "purifier":
            assert row["agreement"] >= 0.995
    errors = [
        check for check in report["checks"] if check["name"].startswith("relative error, onnxruntime fp16 purifier")
    ]
    assert [0 < check["value"] < check["limit"] for check in errors] == [True, True, True]
    assert report["kept"] == report["attempts"] == report["diverging"] == report["not_checked"] == []
    timed = {(row["engine"], row["precision"], row["stage"], row["batch"]) for row in report["latency"]}
    assert ("pytorch", "fp32", "pipeline", 1) in timed
    assert ("onnxruntime", "fp16", "defended", 32) in timed


def test_the_bundle_says_what_the_run_said(bundle_path: Path, shipped: RunFolder) -> None:
    with Pipeline.load(bundle_path) as pipeline:
        golden = load_golden(Bundle.open(bundle_path))["clean"]
        labels = pipeline.predict(golden.images).labels
    assert np.array_equal(labels, golden.defended.argmax(axis=1))


def test_a_run_without_a_student_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run = Path(shutil.copytree(FOLDER / "fashion-mnist", tmp_path / "run"))
    (run / "student.safetensors").unlink()
    with pytest.raises(InputError, match=r"student\.safetensors.*--resume"):
        export_run(open_run(str(run)), tmp_path / "bundle", precisions=("fp32",), force=False, tell=print)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_test_images_takes_them_from_its_dataset(tmp_path: Path) -> None:
    run = Path(shutil.copytree(FOLDER / "fashion-mnist", tmp_path / "run"))
    samples = open_run(str(run)).load_samples()
    (run / "samples.npz").unlink()
    with pytest.raises(InputError, match="does not hold Fashion-MNIST"):
        export_run(
            open_run(str(run)), tmp_path / "b", precisions=("fp32",), force=False, tell=print, data=tmp_path / "run"
        )
    for label, name in enumerate(open_run(str(run)).info["class_names"]):
        of_class = samples.images[samples.labels == label][:6, 0].numpy()
        for part, images in (("train", of_class[:1]), ("validation", of_class[1:2]), ("test", of_class)):
            folder = tmp_path / "data" / part / name.replace("/", "_")
            folder.mkdir(parents=True)
            for index, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{index}.png")
    bundle, report = export_run(
        open_run(str(run)), tmp_path / "b", precisions=("fp32",), force=False, tell=print, data=tmp_path / "data"
    )
    assert report.passed
    golden = load_golden(bundle)["clean"]
    assert sorted(golden.labels) == sorted([*range(10)] * 6)
    known = {
        (int(label), image.tobytes())
        for image, label in zip(samples.images, samples.labels, strict=True)
        for image in [image.numpy()]
    }
    assert {(int(label), image.tobytes()) for image, label in zip(golden.images, golden.labels, strict=True)} <= known


def test_every_precision_at_another_size_passes_its_gate(tmp_path: Path) -> None:
    bundle, report = export_run(
        open_run(None),
        tmp_path / "bundle",
        precisions=("fp32", "fp16", "bf16", "int8"),
        force=False,
        tell=print,
        size=(30, 33),
        max_accuracy_drop=0.02,
    )
    assert report.passed
    manifest = Bundle.open(bundle.path).manifest
    assert (manifest.input.height, manifest.input.width) == (30, 33)
    assert manifest.golden.resized.startswith("from 28x28 by Pillow's bilinear")
    assert load_golden(bundle)["clean"].images.shape == (256, 30, 33, 1)
    assert bundle.precisions("defended") == ["fp32", "fp16", "bf16", "int8"]
    assert {row.precision for row in report.parity} == {"fp32", "fp16", "bf16", "int8"}
    on_an_engine = any((row.precision, row.engine) == ("bf16", "openvino") for row in report.parity)
    assert [unchecked.precision for unchecked in report.not_checked] == ([] if on_an_engine else ["bf16"])
    assert [layer.reason for layer in report.kept].count("first or last layer") == 4
    assert report.attempts[-1].passed
    assert report.attempts[-1].n == 256
    for row in report.parity:
        if row.accuracy_reference is not None and row.accuracy_engine is not None:
            allowed = {"fp32": 0.0, "fp16": 0.002, "bf16": 0.01, "int8": 0.01}[row.precision]
            assert row.accuracy_reference - row.accuracy_engine <= max(allowed, 1.01 / 256), row
    if installed_builders():
        assert {engine.precision for engine in manifest.engines} == {"fp16", "bf16", "int8"}
    with Pipeline.load(bundle.path, precision="int8") as pipeline:
        assert pipeline.predict(load_golden(bundle)["clean"].images[:4]).purified.shape == (4, 1, 30, 33)
