"""The runtime is light: it loads no torch and no onnx, and it is there at once."""

import json
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

HEAVY = ("torch", "torchvision", "onnx", "onnxscript", "scipy", "matplotlib", "purify_toolkit", "purify_export")

PROGRAM = """
import json, sys
import numpy as np
import purify_edge
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import check_bundle
with purify_edge.Pipeline.load(sys.argv[1], engine='onnxruntime', precision='fp32') as pipeline:
    labels = pipeline.predict(np.zeros((2, 28, 28, 1), np.uint8)).labels
report = check_bundle(Bundle.open(sys.argv[1]), engine='onnxruntime', precisions=('fp32',), rounds=1)
print(json.dumps({"labels": labels.tolist(), "passed": report.passed, "loaded": sorted(sys.modules)}))
"""


def test_a_fresh_process_that_runs_and_checks_has_loaded_neither_torch_nor_onnx(bundle_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bundle_path)], capture_output=True, text=True, check=True, timeout=300
    )
    result = json.loads(done.stdout)
    assert result["passed"]
    assert len(result["labels"]) == 2
    assert not [name for name in result["loaded"] if name.partition(".")[0] in HEAVY]


def test_importing_loads_nothing_that_takes_time() -> None:
    program = "import purify_edge, sys; purify_edge.Pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded & set(packages_distributions()) <= {"numpy", "msgspec", "PIL", "typing_extensions", "_distutils_hack"}


def test_the_public_names_are_there() -> None:
    program = (
        "from purify_edge import *; print(Pipeline, Prediction, PurifyError, BundleError, InputError, MissingError)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
