import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from helpers.small_data import RECIPE
from helpers.user_models import Brightness
from lab.photographs import agreement
from purify_edge.errors import InputError
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.cli import main as train


@pytest.mark.slow
def test_agreement_is_measured_attack_by_attack_and_goes_on_from_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for index in range(100):
        noise = torch.randint(-8, 9, (8, 8, 3), generator=torch.Generator().manual_seed(index))
        Image.fromarray((noise + 51 + 4 * (index % 32)).to(torch.uint8).numpy()).save(f"photos/{index}.png")
    torch.save(Brightness().state_dict(), "mine.pt")
    Path("mine.toml").write_text(RECIPE.replace('"fashion-mnist"', '"image-folder"'))
    own = ("--unlabelled", "--classifier", "helpers.user_models:Brightness", "--weights", "mine.pt")
    done = CliRunner().invoke(train, ["mine.toml", "--data", "photos", "--out", "run", *own])
    assert done.exit_code in (0, 1), done.stderr

    monkeypatch.setattr(agreement, "CHUNK", 5)
    command = ["run", "--data", "photos", "--out", "out", "--white-box", "4"]
    agreement.main([*command, "--limit", "5"])
    first = sorted(Path("out/attacks").rglob("*.npy"))
    times = [path.stat().st_mtime_ns for path in first]
    agreement.main(command)
    assert [path.stat().st_mtime_ns for path in first] == times
    rows = {row["attack"]: row for row in json.loads(Path("out/agreement.json").read_text())["rows"]}
    assert rows["none"]["all_alone"]["accuracy"] == 1
    assert rows["none"]["all_spared"]["correct"] >= rows["none"]["all_purified"]["correct"]
    assert rows["none"]["all_alone"]["n"] == 20  # a fifth
    for level in (4, 8):
        worst = rows[f"worst case, {level}/255"]
        for name in (f"PGD-20, {level}/255", f"margin PGD-20, {level}/255"):
            for what in ("all_alone", "all_purified", "all_spared"):
                assert worst[what]["correct"] <= rows[name][what]["correct"] <= rows["none"][what]["correct"]
        assert worst["all_alone"]["correct"] < 20
        assert rows[f"white-box PGD-20, {level}/255"]["all_purified"]["n"] == 4
    assert (rows["none"]["sure_alone"]["n"] == 20) == all(photographs_are_sure())
    assert "| run | none | 20 | 100.0 (83.9 to 100.0) |" in Path("out/agreement.md").read_text()
    with pytest.raises(InputError, match="was trained with labels"):
        agreement.main([str(trained.path), *command[1:]])


def photographs_are_sure() -> list[bool]:
    """Return for each test picture whether the classifier is sure of it."""
    from purify_toolkit.runs.data import load_data_of

    run = RunFolder(Path("run"))
    test = load_data_of(run, Path("photos"), device="cpu").test
    with torch.no_grad():
        probabilities = run.load_classifier()(test.images.float() / 255).softmax(1)
    return [bool(most >= 0.3) for most in probabilities.amax(1)]
