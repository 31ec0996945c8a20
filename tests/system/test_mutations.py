"""What must not pass: a bundle that was changed, made here and caught by purify-check."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import helper, numpy_helper

from helpers.mutations import edit, mutate
from helpers.tiny import random_images, tiny_run
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import check_bundle
from purify_edge.check.cli import main as check
from purify_edge.check.limits import BY_INTERVAL
from purify_export.options import ExportOptions
from purify_export.runs import export_run
from purify_toolkit.runs.folder import Samples


@pytest.fixture
def mutable(few_images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(few_images, tmp_path / "bundle"))


def broken(bundle: Path, precision: str = "fp32") -> set[str]:
    """The limits that purify-check finds broken, the kind and the role alone; its exit code is 1 if there is one."""
    done = CliRunner().invoke(
        check, [str(bundle), "--engine", "onnxruntime", "--rounds", "0", "--precision", precision, "--json"]
    )
    assert done.exit_code in (0, 1), done.output
    names = [found["name"] for found in json.loads(done.stdout)["checks"] if not found["passed"]]
    assert done.exit_code == (1 if names else 0)
    return {f"{name.partition(',')[0].removesuffix(BY_INTERVAL)} {name.split()[-2]}" for name in names}


def test_the_bundle_with_few_images_is_good(few_images: Path) -> None:
    assert broken(few_images) == set()


def layers() -> Iterator[tuple[str, str]]:
    """Every layer of the pair that ships that has weights."""
    blocks = ("encoder.{}.0.0", "encoder.{}.1.body.0.0", "encoder.{}.1.body.1")
    purifier = ["stem.0", *(block.format(level) for level in (0, 1) for block in blocks)]
    purifier += ["up.0.0", "up.1.0", "refine.0.0.body.0.0", "refine.0.0.body.1", "head"]
    classifier = ["features.0.0", "features.2.0", "features.4.0", "head"]
    classifier += [f"features.{stage}.body.{part}" for stage in (1, 3, 5) for part in ("0.0", "1")]
    yield from (("purifier", layer) for layer in purifier)
    yield from (("classifier", layer) for layer in classifier)


@pytest.mark.parametrize(("role", "layer"), list(layers()))
def test_one_changed_weight_of_any_layer_is_caught_though_hashes_fit(mutable: Path, role: str, layer: str) -> None:
    """One weight, drawn at random, larger by the standard deviation of its layer's weights."""
    generator = np.random.default_rng(int(hashlib.sha256(layer.encode()).hexdigest()[:8], 16))

    def change(old: np.ndarray) -> np.ndarray:
        new = old.copy()
        new.flat[generator.integers(old.size)] += old.std()
        return new

    mutate(mutable, role, lambda model: edit(model, f"{layer}.weight", change))
    report = check_bundle(Bundle.open(mutable), engine="onnxruntime", precisions=("fp32",), rounds=0)
    names = [found.name for found in report.checks if not found.passed]
    assert any(name.startswith(f"relative error, onnxruntime fp32 {role}") for name in names)
    assert not report.passed


def test_every_layer_with_weights_was_looked_at(few_images: Path) -> None:
    for role in ("purifier", "classifier"):
        model = onnx.load(few_images / f"models/{role}.fp32.onnx")
        names = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".weight")}
        assert names == {f"{layer}.weight" for of, layer in layers() if of == role}


def test_a_layer_of_the_composed_graph_alone_is_caught(mutable: Path) -> None:
    mutate(mutable, "defended", lambda model: edit(model, "classifier/head.bias", lambda old: old + np.eye(10)[3]))
    assert "relative error defended" in broken(mutable)


def test_float16_rounded_once_more_is_caught(mutable: Path) -> None:
    """Weights of five bits: most answers stay, and the error limit of float16 tells."""
    mutate(mutable, "classifier", coarse, precision="fp16")
    assert "relative error classifier" in broken(mutable, "fp16")


def coarse(model: onnx.ModelProto) -> None:
    for tensor in list(model.graph.initializer):
        if tensor.name.endswith(".weight_fp16"):
            edit(model, tensor.name, lambda old: (old.view(np.int16) & ~np.int16(63)).view(np.float16))


def identity(model: onnx.ModelProto) -> None:
    """Give back what is given in."""
    del model.graph.node[:]
    node = helper.make_node("Identity", [model.graph.input[0].name], [model.graph.output[0].name])
    model.graph.node.append(node)


def test_a_purifier_that_is_the_identity_is_caught(mutable: Path) -> None:
    mutate(mutable, "purifier", identity)
    found = broken(mutable)
    assert {"relative error purifier", "agreement pipeline", "accuracy drop pipeline"} <= found
    assert "change of what is suspicious pipeline" in found


def test_a_missing_normalisation_is_caught(mutable: Path) -> None:
    def bare(model: onnx.ModelProto) -> None:
        edit(model, "mean", np.zeros_like)
        edit(model, "std", np.ones_like)

    mutate(mutable, "classifier", bare)
    assert {"relative error classifier", "relative error pipeline"} <= broken(mutable)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of three channels, of networks that were not trained."""
    folder = tmp_path_factory.mktemp("coloured")
    run = tiny_run(folder / "run", classes=4, channels=3)
    split = random_images(classes=4, channels=3, count=32)
    run.save_samples(Samples(split.images, split.labels, torch.arange(32)))
    bundle, report = export_run(run, folder / "bundle", ExportOptions(fp16=False, targets=["onnx"]), tell=print)
    assert report.passed
    assert report.suspicion is None  # there are too few images for a threshold
    return bundle.path


@pytest.mark.parametrize("role", ["purifier", "classifier", "defended"])
def test_a_swapped_channel_order_is_caught(coloured: Path, tmp_path: Path, role: str) -> None:
    copy = Path(shutil.copytree(coloured, tmp_path / "bundle"))

    def swap(model: onnx.ModelProto) -> None:
        """BGR for RGB, before all else."""
        name = model.graph.input[0].name
        for node in model.graph.node:
            node.input[:] = ["swapped" if given == name else given for given in node.input]
        model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "order"))
        model.graph.node.insert(0, helper.make_node("Gather", [name, "order"], ["swapped"], axis=1))

    mutate(copy, role, swap)
    assert f"relative error {role}" in broken(copy)
