"""Measure one purifier in front of classifiers of other architectures, which it never saw.

python -m lab.studies.across_classifiers RUN --data DIR --out DIR [--classifiers residual:24:1,pooled:48:1]

RUN is a run folder or the name of a pair that ships. Each classifier is trained on the run's dataset by the run's
recipe, its table [classifier] with other architecture, width and blocks, and with another seed. The grey-box examples
are made on the very classifier that then judges them, purified or not. An interrupted study goes on with the same
command. Everything is under the folder of --out: a run folder a classifier, across.json, across.md.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lab.studies.common import (
    GOES_ON,
    begin,
    changed,
    guarded,
    markdown,
    positive,
    study_parser,
    train_stage,
    write_results,
)
from purify_edge.errors import InputError
from purify_edge.files import file_sha256, write_json
from purify_edge.shell.stages import RichProgress, StageProgress
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import ImageData
from purify_toolkit.device.choice import choose_device
from purify_toolkit.evaluate.accuracy import evaluate
from purify_toolkit.networks.architectures import CLASSIFIERS
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.request import Request

DEFAULT = "residual:24:1,pooled:48:1,separable:32:1"
ITS_OWN = "its own"


@dataclass(frozen=True)
class AcrossStudy:
    """A study: the purifier, what the classifiers are trained on, and where they are kept."""

    run: RunFolder
    data: ImageData
    out: Path
    seed: int
    limit: int | None
    device: torch.device

    def request(self, name: str, keys: dict[str, object]) -> Request:
        """Return a training by the run's recipe with other keys of [classifier], which the recipe must take."""
        return Request(
            recipe_name=f"{self.run.info['recipe']}-{name}",
            recipe_text=changed(self.run.recipe, {"classifier": keys}),
            out=self.out / name,
            seed=self.seed,
            limit=self.limit,
            resume=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure what is missing, write the results and print the table."""
    parser = study_parser(__doc__)
    parser.add_argument("run", help="the purifier's run folder, or the name of a pair that ships")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--data", type=Path, help="folder that holds the run's dataset")
    parser.add_argument("--classifiers", default=DEFAULT, help=f"architecture:width:blocks,...; default {DEFAULT}")
    parser.add_argument("--epochs", type=positive, help="of each classifier, instead of the recipe's")
    parser.add_argument("--seed", type=int, default=100, help="of the classifiers and attacks; default 100")
    parser.add_argument("--limit", type=positive, help="use only so many images of each part")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    options = parser.parse_args(arguments)
    architectures, run = architectures_named(options.classifiers), open_run(options.run)
    data = load_data_of(run, options.data)
    data = data if options.limit is None else data.limited(options.limit)
    study = AcrossStudy(run, data, options.out, options.seed, options.limit, choose_device(options.device))
    epochs = {} if options.epochs is None else {"epochs": options.epochs}
    requests = {name: study.request(name, keys | epochs) for name, keys in architectures.items()}
    study.out.mkdir(parents=True, exist_ok=True)
    with RichProgress() as progress:
        measured = [measure(study, study.run, ITS_OWN, progress)]
        for name, request in requests.items():
            trained = begin(request, data)
            train_stage("classifier", trained, data, seed=study.seed, device=study.device, progress=progress)
            measured.append(measure(study, trained, name, progress))
    results = {"purifier": _about(study), "classifiers": measured}
    write_results(study.out, "across", results, table(results))
    print(table(results), end="")


def architectures_named(text: str) -> dict[str, dict[str, object]]:
    """Return the keys of [classifier] of each architecture in a list, by the name of its folder.

    >>> architectures_named("pooled:48:1")
    {'pooled-48-1': {'architecture': 'pooled', 'width': 48, 'blocks': 1}}
    """
    found: dict[str, dict[str, object]] = {}
    for part in text.split(","):
        try:
            name, width, blocks = part.split(":")
            keys: dict[str, object] = {"architecture": name, "width": int(width), "blocks": int(blocks)}
        except ValueError as error:
            raise InputError(f"expected architecture:width:blocks, residual:24:1 say, got {part!r}") from error
        if name not in CLASSIFIERS:
            raise InputError(f"no architecture {name!r}; expected one of {', '.join(CLASSIFIERS)}")
        found["-".join(map(str, keys.values()))] = keys
    return found


def _about(study: AcrossStudy) -> dict[str, Any]:
    """Return what the figures depend on: the weights of the purifier, and the images."""
    weights = file_sha256(study.run.weights_path("student"))
    facts = {"recipe": study.run.info["recipe"], "student_sha256": weights, "test_sha256": study.data.sha256()}
    return facts | {"seed": study.seed, "limit": study.limit}


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
        classifier,
        purifier,
        study.data.test,
        PGD.of(study.run.recipe.evaluation),
        seed=study.seed,
        device=study.device,
        advance=lambda images: progress.advance(images, ""),
        white_box=False,
    )
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    found = {"name": name, "parameters": parameters, "about": about, "rows": [row.as_dict() for row in rows]}
    write_json(path, found)
    return json.loads(path.read_text())  # type: ignore[no-any-return]  # the same whether measured now or before


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
    guarded(main, when_interrupted=GOES_ON)
