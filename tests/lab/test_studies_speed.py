import json
import shutil
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from helpers.silent import Silent
from helpers.small_data import RECIPE
from lab.studies import plain_loop, training_speed
from lab.studies.common import changed
from purify_edge.errors import InputError
from purify_toolkit.attacks import gradient
from purify_toolkit.networks.answers import Model
from purify_toolkit.runs.data import load_data
from purify_toolkit.runs.folder import RunFolder

IMAGES = 192


class Recording(Silent):
    """Progress that keeps what the epochs said of themselves."""

    def __init__(self) -> None:
        self.epochs: list[tuple[str, int]] = []

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        self.epochs.append((stage, units))


def bench_of(trained: RunFolder, accepted: Path, folder: Path, progress: Recording) -> training_speed.TrainingBench:
    data = load_data(trained.recipe, accepted).limited(IMAGES)
    run = training_speed.workplace(folder, trained, data, 0)
    return training_speed.TrainingBench(run, data, 0, torch.device("cpu"), progress)


def test_a_round_alternates_and_has_the_products_share_of_attacks_in_it(
    trained: RunFolder, accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked: list[int] = []

    class Counting(gradient.PGD):
        def __call__(self, model: Model, images: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
            attacked.append(len(images))
            return super().__call__(model, images, labels, **options)

    monkeypatch.setattr(plain_loop, "PGD", Counting)
    progress = Recording()
    bench = bench_of(trained, accepted, tmp_path / "run", progress)
    for _ in range(2):
        progress.epochs.clear()
        attacked.clear()
        found = training_speed.one_round(bench)
        assert progress.epochs == [
            ("adversarial_teacher", IMAGES + IMAGES),  # attacked and trained on
            ("adversarial_teacher", IMAGES // 2 + IMAGES),  # refresh_epochs is 2
            ("plain adversarial_teacher", IMAGES),
            ("normal_teacher", IMAGES),
            ("normal_teacher", IMAGES),
            ("plain normal_teacher", IMAGES),
            ("student", IMAGES // 2 + IMAGES),
            ("student", IMAGES // 2 + IMAGES),
            ("plain student", IMAGES),
        ]
        assert attacked == [64, 64, 64, 32, 32, 32]  # the student sees half of each batch attacked
        assert all(value > 0 for stage in found.values() for who in stage.values() for value in who.values())


@pytest.mark.parametrize("stage", training_speed.STAGES)
def test_the_plain_loop_trains(trained: RunFolder, accepted: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    loop = plain_loop.PlainLoop(trained, stage, device=torch.device("cpu"), seed=0)
    losses: list[float] = []
    loss = loop._loss

    def noting(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = loss(images, labels)
        losses.append(float(value.detach()))
        return value

    monkeypatch.setattr(loop, "_loss", noting)
    seen: list[int] = []
    train = load_data(trained.recipe, accepted).train
    batches = loop.loader(train)
    for _ in range(4):
        loop.epoch(batches, seen.append)
    assert seen == [64] * (len(train) // 64) * 4
    assert losses[-1] < 0.9 * losses[0]


def test_the_plain_loop_attacks_as_the_recipe_says(
    trained: RunFolder, accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")))
    changes = {"attack": {"single_step": 0.4, "epsilon_min": 0.05, "epsilon_max": 0.05}}
    (run.path / "recipe.toml").write_text(changed(trained.recipe, changes))
    made: dict[str, int] = {}

    def counting(attack: type[gradient.PGD]) -> type[gradient.PGD]:
        class Counting(attack):  # type: ignore[misc, valid-type]
            def __call__(self, model: Model, images: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
                made[attack.__name__] = len(images)
                return super().__call__(model, images, *arguments, **options)  # type: ignore[no-any-return]

        return Counting

    for attack in (gradient.PGD, gradient.FGSM):
        monkeypatch.setattr(plain_loop, attack.__name__, counting(attack))
    train = load_data(trained.recipe, accepted).train[:100]
    loop = plain_loop.PlainLoop(run, "adversarial_teacher", device=torch.device("cpu"), seed=0)
    images = train.images / 255
    distance = (loop._attacked(images, train.labels) - images).abs().amax((1, 2, 3))
    assert made["PGD"] + made["FGSM"] == 100
    assert 20 < made["FGSM"] < 60
    torch.testing.assert_close(distance, torch.full((100,), 0.05), rtol=0, atol=1e-6)


def test_items_of_the_plain_loop_are_the_images(trained: RunFolder, accepted: Path) -> None:
    train = load_data(trained.recipe, accepted).train[:5]
    items = plain_loop.EightBit(train)
    assert len(items) == 5
    for index in range(5):
        image, label = items[index]
        torch.testing.assert_close(image, train.images[index] / 255, rtol=0, atol=0)
        assert label == int(train.labels[index])


@pytest.mark.slow
def test_the_speeds_are_those_of_the_rounds(
    trained: RunFolder, accepted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    training_speed.main(
        [str(trained.path), "--data", str(accepted), "--images", "200", "--rounds", "2", "--out", str(out)]
    )
    results = json.loads(out.read_text())
    assert results["images"] == dict.fromkeys(training_speed.STAGES, IMAGES)
    assert len(results["rounds"]) == 2
    assert {"processor", "cores", "threads", "device", "gpu"} == results["machine"].keys()
    assert results["written_with"]["versions"]["torch"] == version("torch")
    together = {"product": [0.0] * 2, "plain": [0.0] * 2}
    for stage, epochs in {"adversarial_teacher": 2, "normal_teacher": 2, "student": 3}.items():
        seconds = {who: [] for who in together}
        for number, one in enumerate(results["rounds"]):
            for who, of in one[stage].items():
                first = of["first"] if who == "product" else of["later"]
                seconds[who].append(first + (epochs - 1) * of["later"])
                together[who][number] += seconds[who][-1]
        check_rates(results["stages"][stage], seconds, IMAGES * epochs)
    check_rates(results["stages"]["together"], together, IMAGES * 7)
    text = capsys.readouterr().out
    assert f"| {results['stages']['together']['ratio']:.2f} (" in text
    assert "Recipe small (float32; the plain loop float32), 192 images an epoch, 2 rounds, " in text


def check_rates(found: dict[str, float], seconds: dict[str, list[float]], images: int) -> None:
    for who, values in seconds.items():
        assert found[f"{who}_images_per_s"] == pytest.approx(median(images / value for value in values))
    ratios = [plain / product for product, plain in zip(seconds["product"], seconds["plain"], strict=True)]
    assert found["ratio"] == pytest.approx(median(ratios))
    assert (found["ratio_min"], found["ratio_max"]) == (pytest.approx(min(ratios)), pytest.approx(max(ratios)))
    assert found["ratio"] > 0


@pytest.mark.parametrize(
    ("change", "message"), [("imitation = 0.0", "has no two teachers"), (None, "less than a batch")]
)
def test_what_cannot_be_timed_is_refused(
    trained: RunFolder, accepted: Path, tmp_path: Path, change: str | None, message: str
) -> None:
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    (run / "recipe.toml").write_text(RECIPE.replace("imitation = 1.0", change or "imitation = 1.0"))
    with pytest.raises(InputError, match=message):
        training_speed.main([str(run), "--data", str(accepted), "--images", "32"])
