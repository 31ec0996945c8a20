from io import StringIO

import msgspec
from rich.console import Console

from purify_edge.bundle.report import SIMULATION, Attempt, Check, Divergence, KeptLayer, LatencyRow, NotChecked, ParityRow, Report
from purify_edge.machine import environment
from purify_edge.check.tables import print_report

ROW = ParityRow(engine="e", precision="int8", role="purifier", split="clean", n=9, max_abs_diff=0.5, mean_abs_diff=0.1)
REPORT = Report(
    environment=environment({}),
    parity=(ROW,),
    latency=(),
    checks=(Check(name="agreement", value=0.5, limit=0.9, passed=False),),
    passed=False,
    kept=(
        KeptLayer(precision="fp16", role="purifier", node="n[1]", operator="Conv", weight="w", reason="it overflows"),
        KeptLayer(precision="fp16", role="classifier", node="s", operator="Sub", weight="", reason="it loses 3%"),
    ),
    attempts=(
        Attempt(
            precision="int8",
            float32_layers=4,
            layers=20,
            n=256,
            drop={"clean": 0.0123, "adversarial": -0.004},
            limit=0.005,
            passed=False,
        ),
    ),
    diverging=(
        Divergence(
            precision="int8", split="clean", node="a/b", operator="Conv", weight="a/w", error=0.71, tolerance=0.2
        ),
    ),
    not_checked=(NotChecked(precision="bf16", reason="no kernels"),),
)


def printed(report: Report) -> str:
    console = Console(file=StringIO(), width=300)
    print_report(report, console)
    output: StringIO = console.file  # type: ignore[assignment]
    return output.getvalue()


def test_what_the_conversions_did_is_told_line_by_line() -> None:
    lines = printed(REPORT).splitlines()
    assert "float32 in fp16: purifier, n[1] (Conv of w): it overflows" in lines
    assert "float32 in fp16: classifier, s (Sub): it loses 3%" in lines
    assert (
        "tried in int8: 4 of 20 layers in float32, accuracy drop in points on 256 images each: clean +1.23, "
        "adversarial -0.40; limit 0.5"
    ) in lines
    assert "first diverging layer in int8, clean: a/b (Conv of a/w), error 0.71, tolerance 0.2" in lines
    assert "not checked here: bf16: no kernels" in lines
    assert lines[-1] == "FAILED: 0 of 1 limits hold"


def test_what_is_simulated_is_marked() -> None:
    simulated = msgspec.structs.replace(ROW, engine=SIMULATION, precision="bf16")
    told = printed(msgspec.structs.replace(REPORT, parity=(ROW, simulated)))
    assert "purifier  bf16*" in told
    assert "int8*" not in told
    assert "* simulated in float32" in told
    assert "* simulated" not in printed(REPORT)


def timed(engine: str, precision: str, p50_ms: float) -> LatencyRow:
    times = {"p50_ms": p50_ms, "p90_ms": p50_ms, "p99_ms": p50_ms, "mean_ms": p50_ms, "images_per_s": 1e3 / p50_ms}
    return LatencyRow(engine=engine, precision=precision, stage="pipeline", batch=1, n=9, warmup=1, **times)


def test_a_precision_that_is_slower_than_float32_is_told_of() -> None:
    rows = (timed("onnxruntime", "fp32", 0.9), timed("onnxruntime", "int8", 2.7), timed("openvino", "fp32", 0.9))
    told = printed(msgspec.structs.replace(REPORT, latency=(*rows, timed("openvino", "int8", 0.4))))
    assert (
        "int8 takes 3.0 times as long as fp32 on onnxruntime here: take fp32, or "
        "pip install 'purify-edge[openvino]' and --engine openvino\n"
    ) in told
    assert told.count("times as long") == 1
    alone = printed(
        msgspec.structs.replace(REPORT, latency=(timed("tensorrt", "fp16", 1.3), timed("tensorrt", "fp32", 1)))
    )
    assert "fp16 takes 1.3 times as long as fp32 on tensorrt here: take fp32\n" in alone


def test_nothing_is_told_where_nothing_was_done() -> None:
    plain = msgspec.structs.replace(REPORT, kept=(), attempts=(), diverging=(), not_checked=())
    for word in ("float32 in", "tried", "diverging", "not checked"):
        assert word not in printed(plain)
