import re
from pathlib import Path

import numpy as np
import pytest

from lab.studies import changed_weights, suspicion_scores
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import InputError
from purify_export.images.calibration import changed
from purify_export.images.golden import reference
from purify_export.networks import Networks
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.folder import RunFolder


@pytest.mark.slow
def test_the_table_of_changed_weights_tells_how_many_were_caught(bundle_path: Path) -> None:
    lines = changed_weights.table(Bundle.open(bundle_path), images=4, weights=1).splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| precision", "| ---", "| fp32", "| fp16"]
    shares = [[int(share) for share in re.findall(r"([0-9]+)% of [0-9]+", line)] for line in lines[2:]]
    assert min(shares[0][2:]) >= 90  # in float32 a larger weight shows
    assert shares[1][0] < shares[0][0]  # a small change is lost in the rounding to float16
    assert shares[1][3] >= 50


def test_no_change_is_left_in_the_model(bundle_path: Path) -> None:
    import onnx

    bundle = Bundle.open(bundle_path)
    model = onnx.load_model_from_string(bundle.read(bundle.model("classifier", "fp32").file))
    before, judges = model.SerializeToString(), changed_weights.judges_of(bundle, "classifier", 2)
    assert all(error > 0 for _, error in changed_weights.errors(model, judges, 1))
    assert model.SerializeToString() == before


def test_scores_are_compared_on_images_that_were_attacked(shipped: RunFolder, networks: Networks) -> None:
    samples = shipped.load_samples()
    test = Split(samples.images[:16], samples.labels[:16])
    images = dict(suspicion_scores.images_of(shipped, networks, test))
    for name, found in images.items():
        distance = (found.int() - test.images.int()).abs().max()
        size = 0 if name == "clean" else int(255 * float(name.rpartition(" ")[2]) + 1e-4)
        assert distance == size, name
    sets = {name: reference(networks, found, test.labels) for name, found in images.items()}
    calibration = reference(networks, samples.images[256:376], samples.labels[256:376])
    dim = {"dim": reference(networks, changed(test, "brightness", seed=0).images, test.labels)}
    lines = suspicion_scores.table(sets, dim, calibration, dim).splitlines()
    assert len(lines) == 2 + 2 * len(suspicion_scores.SCORES)
    shares = {
        tuple(line.split(" | ")[:2]): [float(share) for share in re.findall(r"([0-9.]+)%", line)] for line in lines[2:]
    }
    columns = [*sets, "worst", "mean"]
    alone = dict(zip(columns, shares["| logit change, standard deviation", "clean"], strict=True))
    sure = dict(zip(columns, shares["| logit change x margin before", "clean"], strict=True))
    assert sure["PGD, 0.1"] == 100
    assert alone["PGD, 0.1"] > 75
    for (score, how), found in shares.items():
        assert how == "clean" or all(np.less_equal(found, shares[score, "clean"]))
    with pytest.raises(InputError, match="99 at least"):
        suspicion_scores.table(sets, dim, reference(networks, samples.images[:9], samples.labels[:9]), {})


def test_divergence_is_kullbacks_and_leiblers() -> None:
    first, second = np.log(np.array([[0.5, 0.5]], np.float32)), np.log(np.array([[0.9, 0.1]], np.float32))
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert suspicion_scores.divergence(first, second)[0] == pytest.approx(expected, rel=1e-5)
