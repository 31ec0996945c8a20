"""The program in C++ of `--integrations`, compiled and run: `make test-integrations` gets ONNX Runtime's headers."""

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers.served_graphs import served_of
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.sparing import spare
from purify_edge.pipeline.suspicion import is_suspicious, suspicion_of
from purify_export.integrations.files import facts

SOURCES = Path(__file__).parents[2] / "export/purify_export/integrations"
PACKAGES = Path(sysconfig.get_paths()["purelib"])
HEADERS = os.environ.get("PURIFY_TEST_ONNXRUNTIME")
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
NAMES = ['a "b"', "back\\slash", "tab\there", "bell\x07", "süß", "???/", "/", "line\nfeed", "[,]", ""]

needs_headers = pytest.mark.skipif(
    not HEADERS, reason="$PURIFY_TEST_ONNXRUNTIME names no folder of headers; run make test-integrations"
)
needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler here")
Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The program, built by CMake with ONNX Runtime's own headers and the library of its wheel."""
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "onnxruntime/lib").mkdir(parents=True)
    (folder / "onnxruntime/include").symlink_to(Path(str(HEADERS)).resolve())
    (library,) = PACKAGES.glob("onnxruntime/capi/libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "onnxruntime/lib" / name).symlink_to(library)
    configure = ["cmake", "-S", SOURCES, "-B", folder / "build", f"-DONNXRUNTIME={folder / 'onnxruntime'}"]
    for command in ([*configure, f"-DCMAKE_CXX_FLAGS={' '.join(STRICT[1:])}"], ["cmake", "--build", folder / "build"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [folder / "build/purify", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    return run


@pytest.fixture(scope="module")
def graph(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The served graph of the pair that ships; not to be changed."""
    path = tmp_path_factory.mktemp("graph") / "served.fp32.onnx"
    path.write_bytes(served_of(Bundle.open(bundle_path)).SerializeToString())
    return path


@pytest.fixture
def images(bundle_path: Path, adversarial: GoldenSplit, tmp_path: Path) -> Path:
    """Three attacked golden images as the program takes them."""
    path = tmp_path / "images.f32"
    as_batch(adversarial.images[:3], Bundle.open(bundle_path).manifest.input).tofile(path)
    return path


def rows(done: "subprocess.CompletedProcess[str]") -> list[list[str]]:
    return [line.split("\t") for line in done.stdout.splitlines()]


@needs_headers
def test_it_runs_a_graph_that_spares_clean_images(program: Program, bundle_path: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    rule, split = bundle.manifest.spare, load_golden(bundle)["clean"]
    assert rule is not None
    as_batch(split.images, bundle.manifest.input).tofile(tmp_path / "images.f32")
    (tmp_path / "graph.onnx").write_bytes(served_of(bundle, spare_clean=True).SerializeToString())
    done = program(tmp_path / "graph.onnx", tmp_path / "images.f32")
    assert done.returncode == 0, done.stderr
    expected = spare(split.classifier, split.defended, rule).argmax(axis=1)
    assert expected.tolist() != split.defended.argmax(axis=1).tolist()
    assert [row[1] for row in rows(done)] == [bundle.manifest.class_names[label] for label in expected]


@needs_headers
@pytest.mark.parametrize("name", ["clean", "adversarial", "noise"])
def test_it_gives_pytorchs_answers_to_every_golden_image(
    program: Program, graph: Path, bundle_path: Path, tmp_path: Path, name: str
) -> None:
    bundle = Bundle.open(bundle_path)
    entry = bundle.manifest.suspicion
    assert entry is not None
    split = load_golden(bundle)[name]
    as_batch(split.images, bundle.manifest.input).tofile(tmp_path / "images.f32")
    done = program(graph, tmp_path / "images.f32")
    assert done.returncode == 0, done.stderr
    number, found, probability, suspicion, verdict = zip(*rows(done), strict=True)
    assert list(number) == [str(k) for k in range(len(split))]
    assert list(found) == [bundle.manifest.class_names[label] for label in split.defended.argmax(axis=1)]
    powers = np.exp(split.defended - split.defended.max(axis=1, keepdims=True))
    np.testing.assert_allclose(np.float64(probability), (powers / powers.sum(axis=1, keepdims=True)).max(1), atol=1e-4)
    expected = suspicion_of(split.classifier, split.defended)
    np.testing.assert_allclose(np.float64(suspicion), expected, rtol=1e-3, atol=1e-3)
    flags = is_suspicious(expected, entry.threshold)
    assert list(verdict) == ["suspicious" if flag else "unsuspicious" for flag in flags]


@needs_headers
def test_it_reads_names_and_threshold_of_the_graph(
    program: Program, bundle_path: Path, images: Path, tmp_path: Path
) -> None:
    model = served_of(Bundle.open(bundle_path), names=NAMES)
    for entry in model.metadata_props:
        if entry.key == "purify_edge.suspicion":
            entry.value = "null"
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [len(NAMES)])
    for label, name in enumerate(NAMES):  # each class in turn is the likeliest
        bias.CopyFrom(numpy_helper.from_array(np.eye(len(NAMES), dtype=np.float32)[label] * 1e4, bias.name))
        (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
        done = program(tmp_path / "graph.onnx", images)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"0\t{name}\t1.000000\t")
        assert done.stdout.splitlines()[-1].endswith("\t-")


@needs_headers
def test_what_has_no_answer_says_so(program: Program, bundle_path: Path, images: Path, tmp_path: Path) -> None:
    model = served_of(Bundle.open(bundle_path))
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [10])
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    done = program(tmp_path / "graph.onnx", images)
    assert done.returncode == 1
    assert [(row[1], row[4]) for row in rows(done)] == [("no answer", "suspicious")] * 3


def _cut(graph: Path, images: Path) -> tuple[Path, Path]:
    images.write_bytes(images.read_bytes()[:-1])
    return graph, images


def _empty(graph: Path, images: Path) -> tuple[Path, Path]:
    images.write_bytes(b"")
    return graph, images


def _bytes(graph: Path, images: Path) -> tuple[Path, Path]:
    (255 * np.fromfile(images, np.float32)).tofile(images)
    return graph, images


def _not_a_number(graph: Path, images: Path) -> tuple[Path, Path]:
    np.full(784, np.nan, np.float32).tofile(images)
    return graph, images


def _no_metadata(graph: Path, images: Path) -> tuple[Path, Path]:
    model = onnx.load(graph)
    del model.metadata_props[:]
    onnx.save(model, images.with_name("plain.onnx"))
    return images.with_name("plain.onnx"), images


def _other_names(graph: Path, images: Path) -> tuple[Path, Path]:
    model = onnx.load(graph)
    onnx.helper.set_model_props(
        model, {"purify_edge.class_names": json.dumps(["one"]), "purify_edge.suspicion": "null"}
    )
    onnx.save(model, images.with_name("renamed.onnx"))
    return images.with_name("renamed.onnx"), images


BAD: dict[str, tuple[Callable[[Path, Path], tuple[Path, Path]], str]] = {
    "cut": (_cut, "has 9407 bytes; expected a multiple of 3136, float32 [1, 28, 28] for each image"),
    "empty": (_empty, "has 0 bytes; expected a multiple of 3136"),
    "bytes": (_bytes, "expected [0, 1]: divide bytes by 255"),
    "not a number": (_not_a_number, "has a pixel of nan"),
    "no images": (lambda graph, images: (graph, images.with_name("absent")), "absent cannot be read"),
    "no graph": (lambda graph, images: (images.with_name("absent.onnx"), images), "absent.onnx"),
    "not a graph": (lambda graph, images: (images, images), "images.f32"),
    "no metadata": (_no_metadata, "no metadata purify_edge.class_names; purify-export --served float32 writes one"),
    "other names": (_other_names, "names another number of classes than it has"),
}


@needs_headers
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_an_error_in_one_line(program: Program, graph: Path, images: Path, what: str) -> None:
    spoil, expected = BAD[what]
    done = program(*spoil(graph, images))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("purify: ")
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs_headers
def test_a_graph_of_another_kind_is_refused(
    program: Program, graph: Path, bundle_path: Path, images: Path, tmp_path: Path
) -> None:
    model = onnx.load(bundle_path / "models/defended.fp32.onnx")
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in onnx.load(graph).metadata_props})
    onnx.save(model, tmp_path / "defended.onnx")
    done = program(tmp_path / "defended.onnx", images)
    assert done.returncode == 2
    assert "is not a graph for this program; purify-export --served float32 writes one" in done.stderr
    assert "expected two arguments" in program().stderr


@needs_compiler
@pytest.mark.parametrize("threshold", [None, 1.25, 3e-7])
def test_the_facts_are_what_the_manifest_says(tmp_path: Path, threshold: float | None) -> None:
    (tmp_path / "purify_facts.h").write_text(facts(NAMES, threshold))
    (tmp_path / "tell.cpp").write_text(
        '#include <cstdio>\n#include "purify_facts.h"\n'
        "int main() {\n"
        '    for (const char* name : kClassNames) std::printf("%s%c", name, 0);\n'
        '    std::printf("%d %.9g", kHasThreshold, kThreshold);\n}\n'
    )
    subprocess.run(["c++", *STRICT, tmp_path / "tell.cpp", "-o", tmp_path / "tell"], check=True, timeout=300)
    said = subprocess.run([tmp_path / "tell"], capture_output=True, check=True, timeout=300).stdout.decode().split("\0")
    assert said[:-1] == NAMES
    has, value = said[-1].split()
    assert has == str(int(threshold is not None))
    assert np.float32(value) == np.float32(threshold or 0)


@needs_compiler
def test_a_compiler_reads_the_half_for_tensorrt(tmp_path: Path) -> None:
    """Against NVIDIA's headers of CUDA, and declarations of those names of TensorRT that the program uses."""
    headers = PACKAGES.glob("nvidia/*/include/cuda_runtime_api.h")
    cuda = next((header for header in headers if (header.parent / "crt/host_defines.h").is_file()), None)
    if cuda is None:
        pytest.skip("CUDA's headers are not here; run make test-integrations")
    (tmp_path / "purify_facts.h").write_text(facts(NAMES, 1.25))
    declared = Path(__file__).parents[1] / "assets/tensorrt"
    includes = [f"-I{folder}" for folder in (tmp_path, declared, cuda.parent)]
    command = ["c++", *STRICT, "-fsyntax-only", "-DPURIFY_TENSORRT", *includes, SOURCES / "purify.cpp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
