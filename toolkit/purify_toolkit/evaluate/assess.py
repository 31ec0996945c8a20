"""A whole evaluation of a run: plan, measure what is not measured yet, check, report, draw."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from purify_edge.bundle.manifest import SpareEntry
from purify_edge.errors import InputError
from purify_edge.files import file_sha256, write_json
from purify_edge.pipeline.sparing import calibrate_spare
from purify_edge.shell.stages import StageProgress
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.device.provenance import provenance
from purify_toolkit.evaluate.accuracy import AGREEMENT
from purify_toolkit.evaluate.gates import Results, check
from purify_toolkit.evaluate.measure import Measurement, measure
from purify_toolkit.evaluate.plots import save_accuracy_curves, save_threat_grid
from purify_toolkit.evaluate.report import EvaluationReport, summarise
from purify_toolkit.evaluate.selection import EvaluationPlan, EvaluationRequest, check_libraries, plans, select
from purify_toolkit.evaluate.store import Store
from purify_toolkit.evaluate.threats import Strength, Subject
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import FOLDER

SPARE_IMAGES = 500
"""So many validation images set the threshold of the rule that spares clean images, at most."""


def default_out(run: RunFolder) -> Path:
    """Return where the report goes: into the run; `evaluations/NAME` if that is the package's or read-only."""
    own = run.path / "evaluation"
    ships = FOLDER in run.path.resolve().parents
    return own if not ships and os.access(run.path, os.W_OK) else Path("evaluations") / run.path.resolve().name


def assess(
    run: RunFolder,
    test: Split,
    question: EvaluationRequest,
    *,
    out: Path,
    device: torch.device,
    progress: StageProgress,
    validation: Split | None = None,
) -> EvaluationReport:
    """Answer the question, on test images of the run's classes and shape; everything is written to `out`.

    Validation images set the threshold of the rule that spares clean images, where that is asked for.

    ```
    evaluation.json    the report
    curves.png         accuracy against the attack's size
    grid.png           images: clean, attacked, purified
    rows/              each measurement, see `measure.Store`
    ```
    An interrupted evaluation goes on where it stopped, unless the question says `force`.

    Raises:
        InputError: an unknown attack; the other run does not fit; too few validation images for the rule.
        MissingError: an attack's library is not installed.
    """
    rows = select(question.attacks, transfer=question.transfer_from is not None, spare_clean=question.spare_clean)
    shape, classes = tuple(run.info["image_shape"]), len(run.info["class_names"])
    strength = Strength.of(
        run.recipe.evaluation, shape, classes, l2_epsilon=question.l2_epsilon, l1_epsilon=question.l1_epsilon
    )
    planned = plans(rows, strength, question, len(test))
    check_libraries(planned.rows.values())
    weights = digests(run, question.transfer_from)
    subject = load_subject(run, question.transfer_from, device)
    if question.spare_clean:
        subject = replace(subject, spare=rule_of(subject, validation, device))
    seed = run.info["seed"] if question.seed is None else question.seed
    store = Store(out, test, weights, seed, question.force, subject.spare)
    results = measure_all(subject, planned, strength, store, device=device, progress=progress)
    about = _about(run, test, question, weights, device) | {"seed": seed}
    about |= {"spare": msgspec.to_builtins(subject.spare)} if subject.spare else {}
    report = summarise(results, check(results, store), about)
    write_json(out / "evaluation.json", report.as_dict())
    draw(report, subject, store, tuple(run.info["class_names"]))
    return report


def digests(run: RunFolder, other: RunFolder | None) -> dict[str, str]:
    """Return the SHA-256 of the weights that a result may depend on."""
    folders = {"": run} | ({"transfer_from_": other} if other else {})
    return {
        f"{prefix}{name}": file_sha256(folder.weights_path(name))
        for prefix, folder in folders.items()
        for name in ("classifier", "student")
        if folder.has(name)  # loading says what is wrong
    }


def load_subject(run: RunFolder, other: RunFolder | None, device: torch.device) -> Subject:
    """Load the run's networks, and the other's composed, onto the device; raise InputError where they do not fit."""
    return Subject(
        classifier=run.load_classifier().to(device),
        purifier=run.load_student().to(device),
        other=None if other is None else _other_pipeline(run, other).to(device),
    )


def rule_of(subject: Subject, validation: Split | None, device: torch.device) -> SpareEntry:
    """Return the rule that the first validation images set, as `purify-export` does on other clean images.

    Raises:
        InputError: there are too few of them.
    """
    few = None if validation is None else validation[:SPARE_IMAGES]
    entry = None
    if few is not None and len(few):
        models = subject.classifier, subject.pipeline
        with torch.no_grad():
            parts = [[model(images).cpu() for model in models] for images, _ in batches(few, device)]
        unpurified, purified = (torch.cat(logits).numpy() for logits in zip(*parts, strict=True))
        entry = calibrate_spare(unpurified, purified, source="validation images")
    if entry is None:
        raise InputError(
            f"--spare-clean takes 19 validation images that the networks give finite answers to, the run has "
            f"{0 if validation is None else len(validation)}; leave --spare-clean out"
        )
    return entry


def _other_pipeline(run: RunFolder, other: RunFolder) -> torch.nn.Sequential:
    for key in ("class_names", "image_shape"):
        if run.info[key] != other.info[key]:
            raise InputError(
                f"{other.path} does not fit {run.path}: {key} {other.info[key]}, expected {run.info[key]}; "
                "--transfer-from names a run on the same data"
            )
    if _same(digests(run, other), "student"):
        raise InputError(
            f"{other.path} has the same purifier as {run.path}: a transfer attack comes from an independently "
            "trained purifier and classifier, of another seed, say"
        )
    return torch.nn.Sequential(other.load_student(), other.load_classifier())


def _same(weights: dict[str, str], name: str) -> bool:
    """Return whether the run and the other have the same weights of one network."""
    return weights.get(name) == weights.get(f"transfer_from_{name}")


def measure_all(
    subject: Subject,
    planned: EvaluationPlan,
    strength: Strength,
    store: Store,
    *,
    device: torch.device,
    progress: StageProgress,
) -> Results:
    """Measure everything that is planned, or take it from the store."""
    flat = [*planned.rows.values(), *(plan for curve in planned.curves.values() for plan in curve.values())]
    flat += [planned.doubled] if planned.doubled else []
    done: dict[str, Measurement] = {}
    for number, plan in enumerate(flat):
        found = store.load(plan)
        progress.epoch("evaluation", number, len(flat), plan.n)
        if found is None:
            found, examples = measure(
                subject,
                store.test,
                plan,
                seed=store.seed,
                device=device,
                advance=lambda images, name=plan.name: progress.advance(images, name),  # type: ignore[misc]
            )
            store.save(found, examples)
        else:
            progress.advance(plan.n, f"{plan.name}, measured before")
        done[plan.name] = found
    return Results(
        rows={row: done[plan.name] for row, plan in planned.rows.items()},
        curves={row: {size: done[plan.name] for size, plan in curve.items()} for row, curve in planned.curves.items()},
        doubled=done[planned.doubled.name] if planned.doubled else None,
        strength=strength,
    )


def _about(
    run: RunFolder, test: Split, question: EvaluationRequest, weights: dict[str, str], device: torch.device
) -> dict[str, Any]:
    """Return what made the report."""
    other = question.transfer_from
    measures = {"measures": AGREEMENT} if run.is_unlabelled else {}
    return measures | {
        "run": {key: run.info.get(key) for key in ("recipe", "recipe_sha256", "seed", "limit", "dataset", "commit")},
        "recipe": (run.path / "recipe.toml").read_text(),
        "transfer_from": None
        if other is None
        else {"path": str(other.path), "seed": other.info["seed"], "same_classifier": _same(weights, "classifier")},
        "weights_sha256": weights,
        "test_images": len(test),
        "test_sha256": test.sha256(),
        "device": str(device),
        "evaluated_with": provenance(),
    }


def draw(report: EvaluationReport, subject: Subject, store: Store, class_names: tuple[str, ...]) -> None:
    """Draw the pictures of what was measured."""
    results = report.results
    if results.curves:
        save_accuracy_curves(_lines(results), store.folder / "curves.png")
    examples = {}
    for threat in ("grey-box", "white-box"):
        row = results.rows.get(f"{threat}:pgd")
        if row is not None:
            examples[f"{threat}, {row.plan.attack}"] = store.load_examples(row.plan)
    if examples:
        save_threat_grid(subject.classifier, subject.purifier, examples, class_names, store.folder / "grid.png")


def _lines(results: Results) -> dict[str, dict[float, tuple[int, int]]]:
    """Return what the picture shows: line -> size -> images right, images."""
    lines: dict[str, dict[float, tuple[int, int]]] = {}
    for curve in results.curves.values():
        for size, point in curve.items():
            for row in point.rows():
                lines.setdefault(f"{row.threat}, {'purifier' if row.defended else 'no purifier'}", {})[size] = (
                    row.correct,
                    row.n,
                )
    return lines
