"""The whole path with data as people have them: a table and a class map, or no labels at all."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from helpers.small_data import RECIPE
from helpers.user_models import Brightness
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.report import Report
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.content import document_of
from purify_edge.document.html import render_html
from purify_export.options import ExportOptions
from purify_export.runs import export_run
from purify_toolkit.evaluate.cli import main as evaluate
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.cli import main as train

NAMES = ("pitch", "night", "dusk", "dawn", "day", "snow")
CLASS_OF = {"dark": 1, "light": 4}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixty images in one folder, of two of the classifier's six classes, with a table; recipe and weights beside."""
    folder, rows = tmp_path / "photos", []
    folder.mkdir()
    for index in range(60):
        name = ("dark", "light")[index % 2]
        noise = torch.randint(-8, 9, (8, 8, 3), generator=torch.Generator().manual_seed(index))
        Image.fromarray((noise + 51 * CLASS_OF[name]).to(torch.uint8).numpy()).save(folder / f"{index}.png")
        rows.append(f"{index}.png,{name}\n")
    (folder / "labels.csv").write_text("".join(rows))
    (tmp_path / "mine.toml").write_text(RECIPE.replace('"fashion-mnist"', '"image-folder"'))
    torch.save(Brightness().state_dict(), tmp_path / "mine.pt")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    (tmp_path / "map.csv").write_text("dark,night\nlight,4\n")
    return folder


OPTIONS = {
    "map": ("--labels", "photos/labels.csv", "--class-map", "map.csv", "--class-names", "names.txt"),
    "unlabelled": ("--unlabelled", "--class-names", "names.txt"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_network_of_six_classes_gets_its_purifier(kind: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    given = ("--classifier", "helpers.user_models:Brightness", "--weights", "mine.pt", *OPTIONS[kind])
    done = CliRunner().invoke(train, ["mine.toml", "--data", "photos", "--out", "run", *given])
    assert done.exit_code in (0, 1), done.stderr  # so small a training may end in harm
    assert "read 60 images, " in done.stderr
    resumed = CliRunner().invoke(train, ["mine.toml", "--data", "photos", "--out", "run", *given, "--resume"])
    assert resumed.exit_code == done.exit_code, resumed.stderr
    with monkeypatch.context() as patch:  # to hear of harm in any case
        patch.setattr("purify_toolkit.train.train.harm_of", lambda *_, **options: [str(options)])
        told = CliRunner().invoke(train, ["mine.toml", "--data", "photos", "--out", "run", *given, "--resume"])
    assert ("agreement with the classifier's own answers" in told.stderr) is (kind == "unlabelled")
    run, agrees = RunFolder(Path("run")), kind == "unlabelled"
    assert run.info["class_names"] == list(NAMES)
    assert set(run.load_samples().labels.tolist()) == set(CLASS_OF.values())
    assert run.metrics is not None
    assert ("agreement with the classifier" in run.metrics.get("measures", "")) is agrees
    assert run.metrics["rows"][0]["accuracy"] == 1
    assert ("agreement with the classifier's own answers" in done.stdout) is agrees
    assert ("the classifier alone has 100%" in " ".join(done.stdout.split())) is agrees

    arguments = ["run", "--data", "photos", "--attacks", "noise:uniform", "--curve-limit", "0"]
    done = CliRunner().invoke(evaluate, arguments)
    assert done.exit_code in (0, 1), done.stderr
    assert ("Agreement of the classifier alone" in done.stdout) is agrees
    content = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert content["tax"]["undefended"] == 1
    assert ("measures" in content) is agrees

    assert (len(load_data_of(run, photos).train) == 0) is agrees  # whose answers nobody needs any more
    bundle, report = export_run(run, Path("bundle"), ExportOptions(fp16=False, targets=["onnx"], rounds=0), data=photos)
    assert bundle.manifest.class_names == NAMES
    assert set(load_golden(bundle)["clean"].labels.tolist()) == set(CLASS_OF.values())
    assert isinstance(report, Report)
    page = render_html(document_of(report, CheckedBundle(bundle.manifest)))
    assert ("Agreement under attack" in page) is agrees
    assert ("right is what the classifier alone answers on the clean image" in page) is agrees


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--unlabelled",), "they need --classifier"),
        (("--class-map", "map.csv"), "they need --classifier"),
        (("--unlabelled", "--labels", "x.csv", "--classifier", "a:b"), "no --labels or --class-map"),
        (("--labels", "absent.csv"), "--labels absent.csv cannot be read"),
        (("--classifier", "helpers.user_models:Brightness", "--weights", "mine.pt", "--labels", "photos/labels.csv"),
         "gives [8, 6], expected logits [8, 2] for the classes dark, light; of a network with more outputs --class"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_end_with_2(
    options: tuple[str, ...], message: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    done = CliRunner().invoke(train, ["mine.toml", "--data", "photos", "--out", "run", *options])
    assert done.exit_code == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert not Path("run").exists()


def test_a_table_that_is_not_in_the_folder_is_asked_for(tmp_path: Path) -> None:
    from helpers.tiny import tiny_run
    from purify_toolkit.runs.data import load_data_of

    run = tiny_run(tmp_path / "run", classes=3, channels=1)
    run.info["labels"] = "mine.csv"
    with pytest.raises(ValueError, match=r"the run's labels were in mine\.csv, and .* holds no such file"):
        load_data_of(run, tmp_path)
