import sys
import urllib.request
from pathlib import Path

import pytest

from helpers.ports import free_port
from helpers.processes import wait_for
from purify_edge.errors import InputError
from purify_edge.run import metrics
from purify_edge.run.metrics import Metrics, open_metrics
from purify_edge.run.results import Result

parser = pytest.importorskip("prometheus_client.parser")
GOOD = Result(file="a", class_name="Bag", unpurified_class="Bag", suspicious=False, model="m")
RESULTS = [
    GOOD,
    Result(file="b", class_name="Bag", unpurified_class="Coat", suspicious=True, model="m"),
    Result(file="c", error="bad", model="m"),
]


def samples(text: str) -> dict[tuple[str, ...], float]:
    """What a text in Prometheus' format holds: name and labels' values -> value."""
    families = parser.text_string_to_metric_families(text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def fill(found: Metrics) -> None:
    found.time("read", 0.0002)
    found.time("predict", 0.03)
    found.time("predict", 1e9)
    found.batch(3)
    found.count(RESULTS)
    found.camera(dropped=3, returns=1, missed=2)
    found.camera(dropped=5, returns=1, missed=2)


def check(text: str) -> None:
    found = samples(text)
    assert found["purify_info", "onnxruntime on cpu", "pair"] == 1
    assert found["purify_images_total", "good"] == 2
    assert found["purify_images_total", "error"] == 1
    assert found["purify_predictions_total", "Bag"] == 2
    assert found["purify_changed_total",] == 1
    assert found["purify_suspicious_total",] == 1
    assert found["purify_dropped_frames_total",] == 5
    assert found["purify_camera_returns_total",] == 1
    assert found["purify_stage_seconds_count", "predict"] == 2
    assert found["purify_stage_seconds_sum", "read"] == 0.0002
    assert found["purify_stage_seconds_bucket", "0.05", "predict"] == 1
    assert found["purify_stage_seconds_bucket", "0.025", "predict"] == 0
    assert found["purify_stage_seconds_bucket", "+Inf", "predict"] == 2
    assert found["purify_stage_seconds_count", "write"] == 0
    assert found["purify_batch_images_bucket", "4.0"] == 1
    assert found["purify_batch_images_bucket", "2.0"] == 0


def test_metrics_are_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FILE_INTERVAL_S", 0.05)
    path = tmp_path / "new" / "purify.prom"
    found = open_metrics(str(path), model="pair", engine="onnxruntime on cpu")
    assert samples(path.read_text())["purify_images_total", "good"] == 0  # there from the start
    fill(found)
    wait_for(lambda: samples(path.read_text())["purify_images_total", "good"] == 2)
    found.count([GOOD])
    found.close()
    assert samples(path.read_text())["purify_images_total", "good"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["purify.prom"]


@pytest.mark.parametrize("host", ["", "127.0.0.1:"])
def test_metrics_are_served_on_this_machine(host: str) -> None:
    port = free_port()
    found = open_metrics(f"{host}{port}", model="pair", engine="onnxruntime on cpu")
    fill(found)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=300) as answer:
        check(answer.read().decode())
    with pytest.raises(InputError, match=rf"--metrics {port}: .*in use; take another"):
        open_metrics(str(port), model="pair", engine="x")
    found.close()
    open_metrics(str(port), model="pair", engine="x").close()  # the port is free again


def test_a_port_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="--metrics 99999: "):
        open_metrics("99999", model="pair", engine="x")


def test_without_the_option_nothing_is_kept_and_nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    found = open_metrics(None, model="pair", engine="x")
    assert type(found) is Metrics
    fill(found)
    found.close()
