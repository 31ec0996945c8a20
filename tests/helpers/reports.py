"""A report with a part of every kind, and what it is about; names in them may be whatever a test wants."""

from typing import Any

import msgspec
import numpy as np

from purify_edge.bundle.manifest import BenignChange, FileEntry, GoldenEntry, InputContract, Manifest, ModelEntry
from purify_edge.bundle.report import (
    SIMULATION,
    AccuracyRow,
    Agreement,
    Attempt,
    Check,
    CurvePoint,
    Divergence,
    EnergyRow,
    KeptLayer,
    LatencyRow,
    NotChecked,
    ParityRow,
    Plan,
    Report,
    SuspicionReport,
    SuspicionSplit,
)
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.document.model import Example, Picture
from purify_edge.stats import wilson

N = 200


def parity(engine: str, precision: str, role: str, split: str, right: int = 180) -> ParityRow:
    row = ParityRow(
        engine=engine,
        precision=precision,
        role=role,
        split=split,
        n=N,
        max_abs_diff=0.5,
        mean_abs_diff=0.01,
        relative_error=0.002,
    )
    if role == "purifier":
        return row
    return msgspec.structs.replace(
        row, accuracy_reference=0.905, accuracy_engine=right / N, agreement=0.99, agreement_ci95=wilson(198, N)
    )


def timed(engine: str, precision: str, stage: str, batch: int, p50_ms: float, **more: float) -> LatencyRow:
    times = {"p90_ms": 1.5 * p50_ms, "p99_ms": 2 * p50_ms} | more
    return LatencyRow(
        engine=engine,
        precision=precision,
        stage=stage,
        batch=batch,
        n=50,
        warmup=5,
        p50_ms=p50_ms,
        mean_ms=p50_ms,
        images_per_s=1000 * batch / p50_ms,
        **times,
    )


def energy(stage: str, batch: int, meter: str, above: float) -> EnergyRow:
    return EnergyRow(
        engine="onnxruntime",
        precision="fp32",
        stage=stage,
        batch=batch,
        meter=meter,
        n=100,
        seconds=2.0,
        mj_per_image=above + 10,
        mj_per_image_above_idle=above,
        power_w=6.5,
        idle_w=4.57,
    )


def accuracy(threat: str, right: int, *, defended: bool, attack: str = "PGD-20, Linf 0.1") -> AccuracyRow:
    share = right / 1000
    return AccuracyRow(
        threat=threat, attack=attack, defended=defended, n=1000, accuracy=share, ci95=wilson(right, 1000)
    )


def point(threat: str, size: float, right: int, *, defended: bool) -> CurvePoint:
    row = accuracy(threat, right, defended=defended, attack=f"PGD-20, Linf {size:g}")
    return CurvePoint(**msgspec.structs.asdict(row), size=size)


def full_report(name: str = "conv1", **changes: Any) -> Report:
    """A failed report of everything; `name` stands wherever a user's own names do."""
    roles = ("purifier", "classifier", "pipeline", "defended")
    report = Report(
        environment={
            "python": "3.11.7",
            "system": f"Linux {name}",
            "machine": "x86_64",
            "processor": name,
            "cores": 2,
            "versions": {"numpy": "2.4", "onnxruntime": name},
            "devices": {"onnxruntime": name},
            "power": {
                "mode": f"25W {name}",
                "temperatures_c": {name: 47.5},
                "gpu_limit_w": 300.0,
                "meters": [f"VDD_IN of {name}"],
                "not_readable": [f"RAPL: not readable: needs root, {name}"],
            },
        },
        parity=(
            *(parity("onnxruntime", "fp32", role, "clean") for role in roles),
            *(parity("onnxruntime", "fp32", role, "adversarial", 150) for role in roles),
            parity(SIMULATION, "bf16", "defended", "clean"),
        ),
        latency=(
            timed("onnxruntime", "fp32", "pipeline", 1, 0.5),
            timed("onnxruntime", "fp32", "defended", 1, 0.4, p99_ms=40.0),
            timed("pytorch", "fp32", "pipeline", 1, 4.0),
            timed("onnxruntime", "fp32", "pipeline", 32, 50.0),
        ),
        energy=(
            energy("pipeline", 1, f"VDD_IN of {name}", 2.5),
            energy("pipeline", 32, f"VDD_IN of {name}", -0.25),
        ),
        checks=(
            Check(name="agreement, onnxruntime fp32 defended clean", value=0.99, limit=0.995, passed=False),
            Check(name="accuracy drop, onnxruntime fp32 defended clean", value=0.005, limit=0.01, passed=True),
        ),
        passed=False,
        not_checked=(
            NotChecked(precision="int8", reason=f"no kernels for {name}"),
            NotChecked(engine="openvino", precision="fp32", reason="not installed"),
        ),
        kept=(
            KeptLayer(
                precision="fp16", role="purifier", node=name, operator="Conv", weight=name, reason="it overflows"
            ),
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
                precision="int8", split="clean", node=name, operator="Conv", weight=name, error=0.71, tolerance=0.2
            ),
        ),
        accuracy=(
            accuracy("clean", 930, defended=False, attack="none"),
            accuracy("clean", 920, defended=True, attack="none"),
            accuracy("grey-box", 0, defended=False),
            accuracy("grey-box", 890, defended=True),
            accuracy("white-box", 15, defended=True),
        ),
        curve=tuple(
            point(threat, size, right, defended=defended)
            for threat, defended, line in (
                ("grey-box", False, {0.0: 930, 0.1: 0}),
                ("grey-box", True, {0.0: 920, 0.1: 890, 0.4: 10}),
                ("white-box", True, {0.0: 920, 0.1: 15}),
            )
            for size, right in line.items()
        ),
        plan=Plan(
            engine="openvino",
            device="cpu",
            precision="bf16",
            ways=("openvino in bf16", "openvino in bf16, 1 thread"),
            gain=2.73,
            agreement=Agreement(512, 510, 0.006),
            left_out={"tensorrt": f"cannot build {name}"},
        ),
        suspicion=SuspicionReport(
            threshold=2.0,
            false_positive_rate=0.01,
            n_calibration=744,
            edges=(0.5, 1.0, 2.0, 4.0),
            score="confident-change",
            benign_rate=0.05,
            benign=(BenignChange(change="gaussian noise", n=N, flagged=0.035),),
            splits=(
                SuspicionSplit(split="clean", n=N, flagged=0.01, auroc=None, counts=(150, 48, 2)),
                SuspicionSplit(split="adversarial", n=N, flagged=0.9, auroc=0.973, counts=(0, 20, 180)),
            ),
        ),
    )
    return msgspec.structs.replace(report, **changes)


def passing_report(**changes: Any) -> Report:
    """The same where every limit holds."""
    checks = tuple(msgspec.structs.replace(check, passed=True) for check in full_report().checks)
    return full_report(checks=checks, passed=True, diverging=(), **changes)


def subject(name: str = "plain", *, channels: int = 1, engines: tuple[Any, ...] = ()) -> CheckedBundle:
    """A bundle and two examples; `name` is its own, that of a class, and part of its producer and attack."""
    file = FileEntry(path="models/x.onnx", size_bytes=1, sha256="0" * 64)
    manifest = Manifest(
        schema_version=1,
        name=name,
        created="2026-11-24T15:10:38+00:00",
        producer={"purify-edge": "0.1.0", "torch": name},
        input=InputContract(channels=channels, height=8, width=8),
        class_names=(name, "shoe"),
        models=tuple(
            ModelEntry(role=role, precision="fp32", file=file)  # type: ignore[arg-type]
            for role in ("purifier", "classifier", "defended")
        ),
        engines=engines,
        golden=GoldenEntry(file=file, splits={"clean": N, "adversarial": N}, attack=f"PGD-20, {name}"),
        provenance={},
    )
    image = np.arange(8 * 8 * channels, dtype=np.uint8).reshape(8, 8, channels)
    pictures = (
        Picture("clean", image, name, 0.99, right=True),
        Picture("adversarial", image, "shoe", 1.0, right=False),
        Picture("purified", image, name, 0.75, right=True),
    )
    return CheckedBundle(manifest, (Example(1, name, pictures), Example(2, name, pictures)))
