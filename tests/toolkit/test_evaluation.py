import pytest
import torch

from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.accuracy import EvaluationRow, evaluate
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run

ATTACK = PGD(epsilon=0.1, steps=20, relative_step=0.125)
N = 100


@pytest.fixture(scope="module")
def run() -> RunFolder:
    return open_run(None)


@pytest.fixture(scope="module")
def rows(run: RunFolder) -> dict[tuple[str, bool], EvaluationRow]:
    samples = run.load_samples()
    test = Split(samples.images[:N], samples.labels[:N])
    done: list[int] = []
    found = evaluate(
        run.load_classifier(), run.load_student(), test, ATTACK, seed=0, device=torch.device("cpu"), advance=done.append
    )
    assert sum(done) == N
    return {(row.threat, row.defended): row for row in found}


def test_each_threat_has_its_row(rows: dict[tuple[str, bool], EvaluationRow]) -> None:
    assert set(rows) == {
        ("clean", False),
        ("clean", True),
        ("grey-box", False),
        ("grey-box", True),
        ("white-box", True),
    }
    assert all(row.n == N for row in rows.values())
    assert rows["clean", True].attack == "none"
    assert rows["grey-box", True].attack == str(ATTACK) == "PGD-20, Linf 0.1, step 0.0125, 1 random start"
    assert rows["white-box", True].attack == f"{ATTACK}, until wrong"


def test_the_shipped_pair_is_as_good_on_the_samples_as_it_is_said_to_be(
    run: RunFolder, rows: dict[tuple[str, bool], EvaluationRow]
) -> None:
    """Each figure of metrics.json lies within the 95% interval of the samples', widened a little for five looks."""
    published = {(row["threat"], row["defended"]): row["accuracy"] for row in run.provenance()["metrics"]["rows"]}
    for key, row in rows.items():
        low, high = row.interval
        assert low - 0.02 <= published[key] <= high + 0.02, key
