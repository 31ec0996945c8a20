"""Measure one purifier in front of classifiers of other architectures, which it never saw.

python -m lab.studies.across_classifiers RUN --data DIR --out DIR [--classifiers residual:24:1,pooled:48:1]

RUN is a run folder or the name of a pair that ships. Each classifier is trained on the run's dataset by the run's
recipe, its table [classifier] with other architecture, width and blocks, and with another seed. The grey-box examples
are made on the very classifier that then judges them, purified or not. An interrupted study goes on with the same
command. Everything is under the folder of --out: a run folder a classifier, across.json, across.md.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lab.studies.common import begin, changed, guarded, markdown, positive, train_stage, write_text
from purify_edge.errors import InputError
from purify_edge.files import file_sha256, write_json
from purify_edge.shell.stages import RichProgress, StageProgress
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import ImageData, Split, batches
from purify_toolkit.device.choice import choose_device
from purify_toolkit.device.generators import device_generator
from purify_toolkit.device.provenance import provenance
from purify_toolkit.evaluate.accuracy import EvaluationRow
from purify_toolkit.networks.answers import count_correct
from purify_toolkit.networks.architectures import CLASSIFIERS
from purify_toolkit.recipe import EvaluationTable
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.request import Request

DEFAULT = "residual:24:1,pooled:48:1,separable:32:1"
ITS_OWN = "its own"


@dataclass(frozen=True)
class Architecture:
    """The keys of [classifier] that make a classifier."""

    architecture: str
    width: int
    blocks: int

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.architecture}-{self.width}-{self.blocks}"


@dataclass(frozen=True, kw_only=True)
class AcrossStudy:
    """A study: the purifier, what the classifiers are trained on, and where they are kept."""

    run: RunFolder
    data: ImageData
    out: Path
    seed: int
    limit: int | None
    epochs: int | None
    device: torch.device


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure what is missing, write the results and print the table."""
    options = _parser().parse_args(arguments)
    architectures, run = architectures_named(options.classifiers), open_run(options.run)
    data = load_data_of(run, options.data)
    study = AcrossStudy(
        run=run,
        data=data if options.limit is None else data.limited(options.limit),
        out=options.out,
        seed=options.seed,
        limit=options.limit,
        epochs=options.epochs,
        device=choose_device(options.device),
    )
    requests = {architecture.name: request_for(study, architecture) for architecture in architectures}
    study.out.mkdir(parents=True, exist_ok=True)
    with RichProgress() as progress:
        measured = [measure(study, study.run, ITS_OWN, progress)]
        for name, request in requests.items():
            measured.append(measure(study, train_classifier(study, request, progress), name, progress))
    results = {"purifier": _about(study), "classifiers": measured, "written_with": provenance()}
    write_json(study.out / "across.json", results)
    write_text(study.out / "across.md", table(results))
    print(table(results), end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the purifier's run folder, or the name of a pair that ships")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--data", type=Path, help="folder that holds the run's dataset")
    parser.add_argument("--classifiers", default=DEFAULT, help=f"architecture:width:blocks,...; default {DEFAULT}")
    parser.add_argument("--epochs", type=positive, help="of each classifier, instead of the recipe's")
    parser.add_argument("--seed", type=int, default=100, help="of the classifiers and attacks; default 100")
    parser.add_argument("--limit", type=positive, help="use only so many images of each part")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def architectures_named(text: str) -> tuple[Architecture, ...]:
    """Return the architectures of a list such as `residual:24:1,pooled:48:1`.

    Raises:
        InputError: it cannot be read so, or there is no such architecture.

    >>> architectures_named("pooled:48:1")
    (Architecture(architecture='pooled', width=48, blocks=1),)
    """
    found = []
    for part in text.split(","):
        try:
            name, width, blocks = part.split(":")
            found.append(Architecture(name, int(width), int(blocks)))
        except ValueError as error:
            raise InputError(f"expected architecture:width:blocks, residual:24:1 say, got {part!r}") from error
        if name not in CLASSIFIERS:
            raise InputError(f"no architecture {name!r}; expected one of {', '.join(CLASSIFIERS)}")
    return tuple(dict.fromkeys(found))


def _about(study: AcrossStudy) -> dict[str, Any]:
    """Return what the figures depend on: the weights of the purifier, and the images."""
    weights = file_sha256(study.run.weights_path("student"))
    facts = {"recipe": study.run.info["recipe"], "student_sha256": weights, "test_sha256": study.data.sha256()}
    return facts | {"seed": study.seed, "limit": study.limit}


def request_for(study: AcrossStudy, architecture: Architecture) -> Request:
    """Return a training by the run's recipe with another classifier.

    Raises:
        InputError: the recipe does not take such a width or number of blocks.
    """
    keys: dict[str, object] = {
        "architecture": architecture.architecture,
        "width": architecture.width,
        "blocks": architecture.blocks,
    }
    if study.epochs is not None:
        keys["epochs"] = study.epochs
    return Request(
        recipe_name=f"{study.run.info['recipe']}-{architecture.name}",
        recipe_text=changed(study.run.recipe, {"classifier": keys}),
        out=study.out / architecture.name,
        seed=study.seed,
        limit=study.limit,
        resume=True,
    )


def train_classifier(study: AcrossStudy, request: Request, progress: StageProgress) -> RunFolder:
    """Train a run that holds a classifier and nothing else."""
    run = begin(request, study.data)
    train_stage("classifier", run, study.data, seed=study.seed, device=study.device, progress=progress)
    return run


def measure(study: AcrossStudy, of: RunFolder, name: str, progress: StageProgress) -> dict[str, Any]:
    """Return the figures of one classifier, from its file if they are there already."""
    about = _about(study) | {"classifier_sha256": file_sha256(of.weights_path("classifier"))}
    path = study.out / f"{name.replace(' ', '-')}.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["about"] == about:
            return kept
    classifier, purifier = of.load_classifier().to(study.device), study.run.load_student().to(study.device)
    progress.epoch(f"evaluation of {name}", 0, 1, len(study.data.test))
    rows = evaluate(
        classifier, purifier, study.data.test, study.run.recipe.evaluation, study.seed, study.device, progress
    )
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    found = {"name": name, "parameters": parameters, "about": about, "rows": [row.as_dict() for row in rows]}
    write_json(path, found)
    return json.loads(path.read_text())  # type: ignore[no-any-return]  # the same whether measured now or before


def evaluate(
    classifier: nn.Module,
    purifier: nn.Module,
    test: Split,
    settings: EvaluationTable,
    seed: int,
    device: torch.device,
    progress: StageProgress,
) -> list[EvaluationRow]:
    """Return the clean and grey-box accuracy without and with the purifier; the attack is on this classifier."""
    models = {False: classifier, True: nn.Sequential(purifier, classifier)}
    attacks = {"clean": "none", "grey-box": str(PGD.of(settings))}
    correct = {(threat, defended): 0 for threat in attacks for defended in models}
    generator = device_generator(seed, device)
    for images, labels in batches(test, device):
        seen = {"clean": images, "grey-box": PGD.of(settings)(classifier, images, labels, generator=generator)}
        for threat, defended in correct:
            correct[threat, defended] += count_correct(models[defended], seen[threat], labels)
        progress.advance(len(labels), "")
    return [
        EvaluationRow(threat, attacks[threat], defended, n=len(test), correct=count)
        for (threat, defended), count in correct.items()
    ]


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    of = [{(row["threat"], row["defended"]): row for row in found["rows"]} for found in results["classifiers"]]
    keys = [("clean", False), ("clean", True), ("grey-box", False), ("grey-box", True)]
    rows = [
        [found["name"], f"{found['parameters']:,}", *(_cell(rows_of[key]) for key in keys)]
        for found, rows_of in zip(results["classifiers"], of, strict=True)
    ]
    header = ["classifier", "parameters", "clean", "clean, purified", "grey-box", "grey-box, purified"]
    row = of[0]["grey-box", True]
    about = f"Purifier of {results['purifier']['recipe']}, n = {row['n']}, {row['attack']}, made on each classifier."
    return f"{about}\nAccuracy in percent with 95% Wilson interval.\n\n{markdown(header, rows)}"


def _cell(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{100 * row['accuracy']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


if __name__ == "__main__":
    guarded(main)
