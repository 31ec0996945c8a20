"""Run one graph in one runtime: `python -m lab.runtimes.child RUNTIME GRAPH OUTPUT IMAGES ANSWERS`.

It has its own process, because a runtime that refuses a graph may crash it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Asked = Callable[[Path, str, Array], Array]
"""An ONNX file, the name of an output `[N, K]` and images `[N, C, H, W]` -> that output of them."""
BATCH = 32


def by_opencv(graph: Path, output: str, images: Array) -> Array:
    """Return what OpenCV's DNN module answers."""
    network = import_module("cv2").dnn.readNetFromONNX(str(graph))
    parts = []
    for start in range(0, len(images), BATCH):
        network.setInput(images[start : start + BATCH], "images")
        parts.append(network.forward(output).copy())
    return np.concatenate(parts)


def by_mnn(graph: Path, output: str, images: Array) -> Array:
    """Return what MNN answers.

    The converter is called below the command `mnnconvert`, which installs a package that reports its use, unasked.
    """
    tools, nets, expressions = (import_module(name) for name in ("_tools", "MNN.nn", "MNN.expr"))
    with tempfile.TemporaryDirectory() as folder:
        converted = str(Path(folder) / "graph.mnn")
        tools.mnnconvert(
            ["mnnconvert", "-f", "ONNX", "--modelFile", str(graph), "--MNNModel", converted, "--bizCode", "-"]
        )
        network = nets.load_module_from_file(converted, ["images"], [output])
    parts = []
    for start in range(0, len(images), BATCH):
        part = np.ascontiguousarray(images[start : start + BATCH])
        given = expressions.placeholder(list(part.shape), expressions.NCHW)
        given.write(part)
        answers = network.forward([given])
        if not answers:
            raise ValueError("no answer")
        parts.append(expressions.convert(answers[0], expressions.NCHW).read().copy())
    return np.concatenate(parts)


def by_ncnn(graph: Path, output: str, images: Array) -> Array:
    """Return what ncnn answers to the graph that pnnx makes of it, in float32; it takes one image at a time."""
    ncnn, program = import_module("ncnn"), import_module("pnnx").EXEC_PATH
    shape = ",".join(map(str, images.shape[1:]))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "graph.onnx").write_bytes(graph.read_bytes())
        command = [program, "graph.onnx", f"inputshape=[1,{shape}]", "fp16=0"]
        code = subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL).returncode
        if code:
            raise ValueError(f"pnnx ends with {code}")
        network = ncnn.Net()
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(network.opt, name, False)
        if network.load_param(f"{folder}/graph.ncnn.param") or network.load_model(f"{folder}/graph.ncnn.bin"):
            raise ValueError("not loaded, as pnnx converts it")
    return np.stack([_by_extractor(network.create_extractor(), ncnn.Mat(image).clone()) for image in images])


def _by_extractor(extractor: Any, image: Any) -> Array:
    extractor.input("in0", image)
    code, answer = extractor.extract("out0")  # pnnx numbers the outputs; the requested one is the first
    if code:
        raise ValueError(f"no answer, but code {code}")
    return np.array(answer)


def by_web(graph: Path, output: str, images: Array) -> Array:
    """Return what ONNX Runtime Web answers under node, in WebAssembly; node finds it from the current folder on."""
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder) / "images.f32", Path(folder) / "answers.f32"
        images.tofile(given)
        script = (Path(__file__).parent / "web.cjs").read_text()
        facts = json.dumps({"graph": str(graph), "output": output, "shape": images.shape, "batch": BATCH})
        subprocess.run(["node", "-e", script, facts, given, got], check=True)
        return np.fromfile(got, np.float32).reshape(len(images), -1)


RUNTIMES: dict[str, Asked] = {
    "OpenCV": by_opencv,
    "MNN": by_mnn,
    "ncnn": by_ncnn,
    "ONNX Runtime Web": by_web,
}


if __name__ == "__main__":
    runtime, graph, output, images, answers = sys.argv[1:]
    np.save(answers, RUNTIMES[runtime](Path(graph).resolve(), output, np.load(images)))
