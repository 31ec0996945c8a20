"""The bundle's SBOM in CycloneDX 1.6 (ECMA-424): the models, the data, and the software that made them."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any
from urllib.parse import quote

from purify_edge.bundle.manifest import FileEntry, Manifest, ModelEntry
from purify_edge.bundle.report import AccuracyRow

FILE = "sbom.cdx.json"
SOFTWARE = (
    *("purify-edge", "purify-edge-pairs", "torch", "torchvision", "numpy", "safetensors", "pillow", "msgspec"),
    *("onnx", "onnx-ir", "onnxscript", "ml_dtypes", "onnxruntime", "onnxruntime-gpu", "openvino"),
)
"""What trains, exports and checks, the writer of the SBOM first; listed where it is installed."""
DATA_LICENCES = {"fashion-mnist": "MIT"}
"""The licences of datasets, where their makers tell one; by SPDX's names."""
FACTS = ("recipe", "recipe_sha256", "seed", "dataset", "data_sha256", "commit")
"""What is published about a run. A user's classifier is not: it may be the path of a file."""
LONGEST_LICENCE = 60  # characters; longer ones are texts, not names

Part = dict[str, Any]


def sbom_of(manifest: Manifest, *, licence: str = "", accuracy: Sequence[AccuracyRow] = ()) -> bytes:
    """Return the SBOM of a bundle as JSON; of the same manifest, with the same packages installed, the same bytes.

    Engines and their builders are left out: each device builds its own.

    Args:
        manifest: with everything but the report and the SBOM itself.
        licence: of the networks, by SPDX's name; empty where it is not known.
        accuracy: what an evaluation found, for the defended models.
    """
    run = _run(manifest)
    licensed = _licensed(licence)
    models = [_model(model, run, licensed, accuracy) for model in manifest.models]
    data = [*_dataset(run), *_golden(manifest)]
    software = [*_software()]
    tool = {key: value for key, value in software[0].items() if key not in ("bom-ref", "scope")}
    bundle = {"type": "machine-learning-model", "bom-ref": "bundle", "name": manifest.name, **licensed}
    content = {
        "metadata": {"timestamp": manifest.created, "tools": {"components": [tool]}, "component": bundle},
        "components": [*models, *data, *software],
        "dependencies": [*_dependencies(manifest, data)],
    }
    text = json.dumps(content, sort_keys=True)
    head = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, text).urn,
        "version": 1,
    }
    return (json.dumps(head | content, indent=2) + "\n").encode()


def _run(manifest: Manifest) -> Mapping[str, Any]:
    """Return what identifies the run; nothing of networks that are none of a run."""
    run = manifest.provenance.get("run")
    return run if isinstance(run, Mapping) else {}


def _licensed(licence: str) -> Part:
    return {"licenses": [{"expression": licence}]} if licence else {}


def _hashed(file: FileEntry) -> Part:
    size = {"name": "purify-edge:size_bytes", "value": str(file.size_bytes)}
    return {"name": file.path, "hashes": [{"alg": "SHA-256", "content": file.sha256}], "properties": [size]}


def _reference(model: ModelEntry) -> str:
    return f"{model.role}.{model.precision}"


def _model(model: ModelEntry, run: Mapping[str, Any], licensed: Part, accuracy: Sequence[AccuracyRow]) -> Part:
    """Return a graph's component: its file, where its weights came from, and how accurate it was in PyTorch."""
    part = {"type": "machine-learning-model", "bom-ref": _reference(model), **_hashed(model.file), **licensed}
    part["properties"] += [*_properties(run)]
    card: Part = {"modelParameters": {"task": "image purification" if model.role == "purifier" else "classification"}}
    if run.get("dataset"):
        card["modelParameters"]["datasets"] = [{"ref": "dataset"}]
    rows = [_performance(row) for row in accuracy if row.defended]
    if rows and model.role == "defended" and model.precision == "fp32":
        card["quantitativeAnalysis"] = {"performanceMetrics": rows}
    return part | {"modelCard": card}


def _properties(run: Mapping[str, Any]) -> Iterator[Part]:
    base = run.get("base")
    facts = {key: run.get(key) for key in FACTS}
    if isinstance(base, Mapping):
        facts |= {"base": base.get("run"), "base_classifier_sha256": base.get("classifier_sha256")}
    for key, value in facts.items():
        if value is not None:
            yield {"name": f"purify-edge:{key}", "value": str(value)}


def _performance(row: AccuracyRow) -> Part:
    low, high = row.ci95
    return {
        "type": "accuracy",
        "value": str(row.accuracy),
        "slice": f"{row.threat}, attack: {row.attack}, n = {row.n}",
        "confidenceInterval": {"lowerBound": str(low), "upperBound": str(high)},
    }


def _dataset(run: Mapping[str, Any]) -> Iterator[Part]:
    name = run.get("dataset")
    if name:
        licensed = _licensed(DATA_LICENCES.get(name, ""))
        properties = [part for part in _properties(run) if part["name"] == "purify-edge:data_sha256"]
        data = [{"type": "dataset", "name": name}]
        yield {"type": "data", "bom-ref": "dataset", "name": name, **licensed, "data": data, "properties": properties}


def _golden(manifest: Manifest) -> Iterator[Part]:
    for file in filter(None, (manifest.golden.file, manifest.golden.files)):
        about = [{"type": "dataset", "name": "golden set", "description": manifest.golden.attack}]
        yield {"type": "data", "bom-ref": file.path, **_hashed(file), "data": about}


def _software() -> Iterator[Part]:
    """Yield the packages that are installed; none of them lies in the bundle, so their scope is `excluded`."""
    for name in SOFTWARE:
        try:
            about = metadata(name)
        except PackageNotFoundError:
            continue
        version = about["Version"]
        purl = f"pkg:pypi/{name.replace('_', '-')}@{quote(version, safe='')}"
        part = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        yield part | {"scope": "excluded", **_licence_of(about)}


def _licence_of(about: Any) -> Part:
    """Return what a package's metadata say: an expression, a short name, or the names among its classifiers."""
    if about["License-Expression"]:
        return _licensed(about["License-Expression"])
    named = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    short = (about["License"] or "").strip()
    names = named or ([short] if short and "\n" not in short and len(short) <= LONGEST_LICENCE else [])
    return {"licenses": [{"license": {"name": name}} for name in names]} if names else {}


def _dependencies(manifest: Manifest, data: Sequence[Part]) -> Iterator[Part]:
    """Yield what is part of what: graphs and data of the bundle, purifier and classifier of the composed graphs."""
    graphs = [_reference(model) for model in manifest.models]
    yield {"ref": "bundle", "dependsOn": [*graphs, *(part["bom-ref"] for part in data)]}
    for model in manifest.models:
        if model.role in ("defended", "served"):
            parts = [f"{role}.{model.precision}" for role in ("purifier", "classifier")]
            yield {"ref": _reference(model), "dependsOn": parts}
