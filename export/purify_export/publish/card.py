"""A bundle's model card for the Hugging Face hub: what it is, how to use it, its figures, its limits."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from purify_edge.bundle.manifest import Manifest
from purify_edge.bundle.report import AccuracyRow, Report
from purify_edge.check.page.accuracy import accuracy_section
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.document.markdown import render_markdown
from purify_edge.document.model import Bullets, Document, Section
from purify_edge.document.wording import percent
from purify_edge.extras import require_library

TASK = "image-classification"
DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
}
"""The names that datasets have on the hub."""
USE = """```sh
pip install 'purify-edge[cpu,hub]'
purify-check hf://{name}     # are its answers here those of PyTorch? how fast is it?
purify-run hf://{name} PICTURE.png --save purified
```

`hf://{name}@COMMIT` stays at one commit; the commands name the commit that they took."""
WHITE_BOX = ("white-box", "bpda")


def model_card(manifest: Manifest, report: Report, name: str, *, licence: str = "") -> str:
    """Return the text of README.md: the card's data as YAML, then Markdown.

    Args:
        manifest: of the bundle.
        report: of its export; its accuracies are the card's.
        name: ORG/NAME of the repository.
        licence: of the networks, by SPDX's name; empty where it is not known.

    Raises:
        MissingError: huggingface_hub is not installed.
    """
    library = require_library("huggingface_hub", "hub")
    data = _data(library, manifest, report, name, licence)
    return str(library.ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(manifest, report, name)}"))


def _dataset(manifest: Manifest) -> str:
    """Return the dataset's name in its recipe; empty where the networks are none of a run."""
    run = manifest.provenance.get("run")
    return str(run.get("dataset") or "") if isinstance(run, dict) else ""


def _data(library: Any, manifest: Manifest, report: Report, name: str, licence: str) -> Any:
    dataset = DATASETS.get(_dataset(manifest))
    results = [*_results(library, manifest, report)]
    return library.ModelCardData(
        license=licence.lower() or None,
        library_name="purify-edge",
        pipeline_tag=TASK,
        tags=["purify-edge", "adversarial-robustness", "adversarial-purification", "onnx"],
        datasets=[dataset] if dataset else None,
        model_name=name.partition("/")[2] if results else None,
        eval_results=results or None,
    )


def _results(library: Any, manifest: Manifest, report: Report) -> Iterator[Any]:
    """Yield the accuracy of purifier and classifier under each attack; without labels nothing is called accuracy."""
    if CheckedBundle(manifest).is_unlabelled:
        return
    dataset = _dataset(manifest) or "own images"
    for row in filter(lambda row: row.defended, report.accuracy):
        yield library.EvalResult(
            task_type=TASK,
            dataset_type=DATASETS.get(dataset, dataset),
            dataset_name=dataset,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"accuracy, {row.threat}: {row.attack}",
            metric_value=row.accuracy,
            metric_args={"threat": row.threat, "attack": row.attack, "n": row.n, "ci95": list(row.ci95)},
        )


def _text(manifest: Manifest, report: Report, name: str) -> str:
    """Return the card's body; all text that comes from others goes through the document, which escapes it."""
    figures = accuracy_section(msgspec.structs.replace(report, curve=()), CheckedBundle(manifest))
    sections = filter(None, (figures, _limits(manifest, report.accuracy)))
    rendered = render_markdown(Document(title=manifest.name, sections=tuple(sections), subtitle=_what_it_is(manifest)))
    head, rest = rendered.split("\n\n## ", 1)  # a # of a text is escaped: this is the first heading
    return f"{head}\n\n## How to use it\n\n{USE.format(name=name)}\n\n## {rest}"


def _what_it_is(manifest: Manifest) -> str:
    given, precisions = manifest.input, dict.fromkeys(model.precision for model in manifest.models)
    return (
        "A bundle of purify-edge: a purifier, which takes adversarial noise out of images, and the classifier of "
        f"{len(manifest.class_names)} classes behind it, as ONNX in {', '.join(precisions)}. A picture becomes "
        f"{given.channels} x {given.height} x {given.width} values: {given.way}. Every file is verified by its SHA-256 "
        "before it is used; report.html tells what was checked, sbom.cdx.json what the bundle is made of."
    )


def _limits(manifest: Manifest, rows: Sequence[AccuracyRow]) -> Section:
    """Return what the bundle does not do, the white box first."""
    found = [row for row in rows if row.defended and row.threat in WHITE_BOX]
    lowest = min(found, key=lambda row: row.accuracy, default=None)
    measured = (
        f"of {lowest.n:,} images {percent(lowest.accuracy)}% stay right ({lowest.attack})"
        if lowest
        else "how many images stay right was not measured; expect none"
    )
    items = (
        ("The white box", f"an attacker who has purifier and classifier, as on this page, is not stopped: {measured}"),
        (
            "Other attacks",
            "figures hold for the attacks and sizes in the table, and for images like those of the dataset",
        ),
        ("Other images", "a picture of anything else gets one of the classes all the same"),
        ("The suspicion score", "an attacker who knows it can keep it low"),
        *_spared(manifest),
    )
    return Section("Limits", (Bullets(items),))


def _spared(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield what sparing clean images costs, and which graphs of the bundle do it unasked."""
    if manifest.spare is None:
        return
    asked = "with --spare-clean the classifier's own answer stands where purification hardly changes the logits"
    graphs = ", ".join(model.file.path for model in manifest.models if model.spare_clean)
    unasked = f"; without being asked in {graphs}" if graphs else ""
    yield "Sparing clean images", f"{asked}{unasked}: weak attacks then pass too"
