"""Every command without a package that it needs: the extra is named, exit code 3, no traceback, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.project import PROJECT


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("purify-train", "torch", "train"),
        ("purify-train", "safetensors", "train"),
        pytest.param("purify-train", "tensorboard", "train", marks=pytest.mark.slow),
        ("purify-eval", "torch", "train"),
        ("purify-eval", "scipy", "train"),
        ("purify-export", "torch", "train"),
        ("purify-export", "onnx", "export"),
        ("purify-export --push acme/pair", "huggingface_hub", "hub"),
        pytest.param("purify-export", "onnxscript", "export", marks=pytest.mark.slow),
        ("purify-build --engine rtx", "tensorrt_rtx", "rtx"),
        ("purify-build --engine tensorrt", "tensorrt", "tensorrt"),
        ("purify-check --engine rtx", "tensorrt_rtx", "rtx"),
        ("purify-check --verify key", "model_signing", "sign"),
        ("purify-check", "onnxruntime openvino", "cpu"),
        ("purify-check --engine openvino", "openvino", "openvino"),
        ("purify-check --engine onnxruntime-cuda", "onnxruntime", "gpu"),
        ("purify-bench --engine onnxruntime", "onnxruntime", "cpu"),
        ("purify-demo", "gradio", "demo"),
        ("purify-ray", "ray", "ray"),
        ("purify-run", "onnxruntime openvino", "cpu"),
        ("purify-run 0", "cv2", "video"),
        ("purify-run --metrics 9464", "prometheus_client", "metrics"),
        ("purify-verify", "torch", "train"),
        ("purify-verify", "onnx", "export"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    bundle_path: Path, tmp_path: Path, command: str, package: str, extra: str
) -> None:
    image = tmp_path / "image.png"
    command, *options = command.split()
    arguments = {
        "purify-train": ["fashion-mnist", "--out", str(tmp_path / "out")],
        "purify-eval": [],
        "purify-export": ["--out", str(tmp_path / "out"), *options],
        "purify-bench": [str(bundle_path), *options],
        "purify-build": [str(bundle_path), *options],
        "purify-check": [str(bundle_path), *options],
        "purify-demo": [str(bundle_path), *options],
        "purify-ray": [str(bundle_path), str(image), str(tmp_path / "out"), *options],
        "purify-run": [str(bundle_path), str(image), *options],
        "purify-verify": [str(bundle_path), "fashion-mnist"],
    }[command]
    # None in sys.modules makes Python's own import machinery say that there is no such module.
    blocked = f"sys.modules.update(dict.fromkeys({package.split()}))"
    module, _, function = PROJECT["scripts"][command].partition(":")
    program = f"import sys; {blocked}; from {module} import {function}; {function}()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 3, done.stderr
    assert f"needs '{extra}': pip install 'purify-edge[{extra}]' (" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
