"""What `--integrations` writes for DeepStream and trtexec, held against what NVIDIA documents."""

import configparser
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from torch import nn

from helpers.served_graphs import served_of
from helpers.trained import CLASSES, PREPROCESSING, SIDE, quadrants
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import InputContract, Preprocessing
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.tensorrt.build import build_engine
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import BundleError, InputError
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.suspicion import is_suspicious, suspicion_of
from purify_export.engines import targets_from
from purify_export.export import ExportResult, check_order, export
from purify_export.integrations.deepstream import VERDICTS, configuration, deepstream_graph, labels
from purify_export.integrations.files import check_channels
from purify_export.options import ExportOptions

NAMES = ["north; west", 'north "east"', "süd\nwest", "C:\\south?east"]
PRECISIONS = ("fp32", "fp16", "int8")
BATCH = (2, 8, 32)
SPLIT = quadrants(channels=3, count=400)

NVINFER = {
    "gpu-id", "gie-unique-id", "process-mode", "interval", "labelfile-path", "secondary-reinfer-interval",
    "output-tensor-meta", "enable-dla", "use-dla-core", "batch-size", "network-mode", "model-engine-file",
    "int8-calib-file", "workspace-size", "output-blob-names", "network-type", "infer-dims", "output-io-formats",
    "layer-device-precision", "model-color-format", "net-scale-factor", "offsets", "mean-file",
    "maintain-aspect-ratio", "symmetric-padding", "scaling-filter", "scaling-compute-hw", "network-input-order",
    "input-tensor-from-meta", "custom-lib-path", "parse-bbox-func-name", "parse-bbox-instance-mask-func-name",
    "engine-create-func-name", "parse-classifier-func-name", "custom-network-config", "onnx-file",
    "num-detected-classes", "cluster-mode", "classifier-type", "classifier-threshold", "classifier-async-mode",
    "segmentation-threshold", "output-instance-mask", "input-object-min-width", "input-object-min-height",
    "input-object-max-width", "input-object-max-height", "operate-on-gie-id", "operate-on-class-ids",
    "filter-out-class-ids",
}  # fmt: skip
"""The keys of nvinfer's group [property].

https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html, and the parser's header,
https://docs.nvidia.com/metropolis/deepstream/dev-guide/sdk-api/gstnvinfer__property__parser_8h.html
"""

TRTEXEC = {"--onnx", "--saveEngine", "--stronglyTyped", "--skipInference", "--minShapes", "--optShapes", "--maxShapes"}
"""Options that TensorRT 10 and 11 both take, of https://github.com/NVIDIA/TensorRT/tree/main/samples/trtexec.

11 accepts --stronglyTyped and does so anyway, and has no --fp16, --int8 or --best any more:
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-trtexec.html
"""


@pytest.fixture(scope="module")
def made(own: tuple[nn.Module, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """A bundle with integrations; not to be changed."""
    return export(
        *own,
        SPLIT.images.permute(0, 2, 3, 1).numpy(),
        SPLIT.labels.numpy(),
        out=tmp_path_factory.mktemp("integrations") / "my bundle",
        int8=True,
        class_names=NAMES,
        epsilon=0.1,
        preprocessing=PREPROCESSING,
        integrations=True,
        build=BuildOptions(batch=BATCH),
        rounds=0,
        targets=["onnx"],
    )


@pytest.fixture(scope="module")
def folder(made: ExportResult) -> Path:
    return made.bundle.path / "integrations"


def nvinfer(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",))
    parser.read_string(text)
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def test_they_are_listed_and_verified_like_all_files(made: ExportResult, tmp_path: Path) -> None:
    assert made.report.passed
    manifest = Bundle.open(made.bundle.path).manifest
    assert {model.pixels for model in manifest.models if model.role == "served"} == {"float32"}
    names = {entry.path.removeprefix("integrations/") for entry in manifest.integrations}
    graphs = {f"deepstream.{precision}.onnx" for precision in PRECISIONS}
    assert names == graphs | {
        "config_infer_purify.txt", "labels.txt", "trtexec.sh", "purify.cpp", "purify_facts.h", "CMakeLists.txt"
    }  # fmt: skip
    copy = Path(shutil.copytree(made.bundle.path, tmp_path / "bundle"))
    Bundle.open(copy).verify()
    for entry in manifest.integrations:
        content = (copy / entry.path).read_bytes()
        (copy / entry.path).write_bytes(content[:-1] + b"~")
        with pytest.raises(BundleError, match=f"{entry.path} is damaged"):
            Bundle.open(copy).verify()
        (copy / entry.path).write_bytes(content)


def test_a_bundle_has_none_without_being_asked(exported: ExportResult) -> None:
    assert exported.bundle.manifest.integrations == ()
    assert not (exported.bundle.path / "integrations").exists()


def test_graphs_of_bytes_do_not_go_with_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--served float32"):
        check_order(tmp_path / "bundle", ExportOptions(integrations=True, served="uint8"))


@pytest.mark.parametrize("channels", [2, 4])
def test_images_that_deepstream_has_not_are_refused(channels: int) -> None:
    with pytest.raises(InputError, match=f"1 or 3 channels.*not of {channels}"):
        check_channels(InputContract(channels=channels, height=8, width=8))


def test_nvinfer_gets_documented_keys_and_files_that_are_there(folder: Path) -> None:
    text = (folder / "config_infer_purify.txt").read_text()
    found = nvinfer(text)
    engines = re.findall(r"^# ([a-z-]+)=(\S+)$", text, re.MULTILINE)
    assert engines == [("model-engine-file", f"deepstream.{precision}.engine") for precision in PRECISIONS]
    assert {*found, *(key for key, _ in engines)} <= NVINFER
    graph = onnx.load(folder / found["onnx-file"])
    assert found["output-blob-names"].split(";") == [output.name for output in graph.graph.output]
    assert (folder / found["labelfile-path"]).is_file()
    assert float(found["net-scale-factor"]) == 1 / 255
    assert (found["network-type"], found["network-mode"], found["model-color-format"]) == ("1", "0", "0")
    assert (found["infer-dims"], found["batch-size"]) == (f"3;{SIDE};{SIDE}", str(BATCH[0]))
    assert "nvinfer does not cut" in text
    assert "no bicubic filter" in text


@pytest.mark.parametrize(
    ("preprocessing", "keep", "filter_", "notes"),
    [
        (Preprocessing(), "0", "1", ""),
        (Preprocessing(interpolation="nearest"), "0", "0", ""),
        (Preprocessing(resize="letterbox"), "1", "1", ""),
        (Preprocessing(resize="letterbox", fill=(114, 114, 114)), "1", "1", "fills with black, not with 114 114 114"),
        (Preprocessing(scaled=(32, 32)), "0", "1", "does not cut"),
    ],
)
def test_nvinfer_is_told_how_a_picture_becomes_the_input(
    preprocessing: Preprocessing, keep: str, filter_: str, notes: str
) -> None:
    contract = InputContract(channels=1, height=28, width=24, preprocessing=preprocessing)
    found = configuration(contract, ["fp32"], ["probabilities"], 1)
    assert (found["keep"], found["filter"], found["colour"], found["dims"]) == (keep, filter_, "2", "1;28;24")
    assert notes in found["notes"]
    assert bool(notes) == bool(found["notes"])


def attributes(outputs: list[np.ndarray], lines: list[list[str]], threshold: float) -> Iterator[list[str]]:
    """What nvinfer's own parser says of each image: of every output the likeliest class above the threshold.

    `ClassifyPostprocessor::parseAttributesFromSoftmaxLayers` in DeepStream's sources/libs/nvdsinfer.
    """
    for image in range(len(outputs[0])):
        shares = [output[image] for output in outputs]
        yield [lines[k][int(share.argmax())] for k, share in enumerate(shares) if share.max() > threshold]


def run(graph: bytes, bundle: Bundle, split: GoldenSplit) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": as_batch(split.images, bundle.manifest.input)})  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nvinfer_reads_the_classes_of_the_graph(made: ExportResult, folder: Path, precision: str) -> None:
    threshold = float(nvinfer((folder / "config_infer_purify.txt").read_text())["classifier-threshold"])
    lines = [line.split(";") for line in (folder / "labels.txt").read_text("utf-8").splitlines()]
    assert lines == [["north, west", 'north "east"', "süd west", "C:\\south?east"], ["unsuspicious", "suspicious"]]
    split = load_golden(made.bundle)["adversarial"]
    outputs = run((folder / f"deepstream.{precision}.onnx").read_bytes(), made.bundle, split)
    assert [output.shape for output in outputs] == [(len(split), CLASSES), (len(split), 2)]
    said = [names[0] for names in attributes(outputs, lines, threshold)]
    expected = [lines[0][label] for label in split.defended.argmax(axis=1)]
    same = np.mean([mine == theirs for mine, theirs in zip(said, expected, strict=True)])
    assert same == 1 if precision == "fp32" else same >= 0.95


@pytest.mark.parametrize("name", ["clean", "adversarial"])
def test_nvinfer_reads_which_images_are_suspicious(bundle_path: Path, name: str) -> None:
    bundle = Bundle.open(bundle_path)
    assert bundle.manifest.suspicion is not None
    threshold = bundle.manifest.suspicion.threshold
    split = load_golden(bundle)[name]
    graph = deepstream_graph(served_of(bundle), threshold).SerializeToString()
    lines = [line.split(";") for line in labels(bundle.manifest.class_names, verdict=True).splitlines()]
    said = [names[1] for names in attributes(run(graph, bundle, split), lines, 0)]
    expected = is_suspicious(suspicion_of(split.classifier, split.defended), threshold)
    assert said == [VERDICTS[int(flag)] for flag in expected]


def test_without_a_threshold_nvinfer_gets_the_class_alone(own: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    few = quadrants(channels=3, count=300)  # leaves too few to set a threshold
    made = export(
        *own, few.images.permute(0, 2, 3, 1).numpy(), few.labels.numpy(), out=tmp_path / "bundle", fp16=False,
        epsilon=0.1, integrations=True, rounds=0, targets=["onnx"],
    )  # fmt: skip
    folder = made.bundle.path / "integrations"
    assert made.bundle.manifest.suspicion is None
    assert nvinfer((folder / "config_infer_purify.txt").read_text())["output-blob-names"] == "probabilities"
    assert (folder / "labels.txt").read_text() == "class 0;class 1;class 2;class 3\n"
    graph = onnx.load(folder / "deepstream.fp32.onnx")
    assert [output.name for output in graph.graph.output] == ["probabilities"]


def trtexec_lines(folder: Path, tmp_path: Path) -> list[list[str]]:
    """What trtexec.sh runs, by the shell itself, with a trtexec that tells its arguments."""
    tool = tmp_path / "bin" / "trtexec"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nprintf "%s\\t" "$@"; echo\n')
    tool.chmod(0o755)
    script = folder / "trtexec.sh"
    subprocess.run(["sh", "-n", script], check=True, timeout=300)
    done = subprocess.run(
        ["sh", script], cwd=tmp_path, env={"PATH": f"{tool.parent}:/usr/bin:/bin"}, capture_output=True, text=True,
        check=True, timeout=300,
    )  # fmt: skip
    return [line.split("\t")[:-1] for line in done.stdout.splitlines()]


def test_trtexec_gets_documented_options_and_what_it_asks_for_can_be_built(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    lines = [dict(argument.partition("=")[::2] for argument in line) for line in trtexec_lines(folder, tmp_path)]
    names = [f"{kind}.{precision}" for kind in ("served", "deepstream") for precision in PRECISIONS]
    assert [line["--saveEngine"] for line in lines] == [f"{name}.engine" for name in names]
    (target,) = targets_from(["rtx"], BuildOptions(), PRECISIONS, print)
    for line, name in zip(lines, names, strict=True):
        assert set(line) == TRTEXEC
        assert Path(line["--onnx"]).name == f"{name}.onnx"
        shapes = [line[f"--{end}Shapes"] for end in ("min", "opt", "max")]
        assert shapes == [f"images:{count}x3x{SIDE}x{SIDE}" for count in BATCH]
        built = build_engine(
            Path(line["--onnx"]).read_bytes(),
            library=target.library,
            options=BuildOptions(batch=BATCH),
            precision=name.partition(".")[2],
            source=name,
            device=target.device,
        )
        assert built.content


def test_engines_that_trtexec_builds_leave_the_bundle_as_it_is(made: ExportResult, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in made.bundle.path.rglob("*") if file.is_file()}
    trtexec_lines(made.bundle.path / "integrations", tmp_path)
    assert {file: file.read_bytes() for file in made.bundle.path.rglob("*") if file.is_file()} == before


def test_bundles_from_before_have_none(made: ExportResult) -> None:
    manifest = msgspec.to_builtins(made.bundle.manifest)
    del manifest["integrations"]
    assert msgspec.convert(manifest, type(made.bundle.manifest)).integrations == ()
