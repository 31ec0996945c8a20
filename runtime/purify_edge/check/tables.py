"""A report as tables on standard output."""

import math
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from purify_edge.bundle.report import SIMULATION, Report

SLOWER = 1.2
"""Times as long as float32, from where on another precision is said to be slower."""


def print_report(report: Report, console: Console | None = None) -> None:
    """Print parity, latency and verdict; the broken limits by name."""
    console = console or Console()
    machine = report.environment
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {versions}", style="dim"
    )
    devices = [device for device in machine.get("devices", {}).values() if device != "cpu"]
    if devices:
        console.print(", ".join(devices), style="dim")
    console.print(_parity(report))
    if any(row.engine == SIMULATION for row in report.parity):
        console.print("* simulated in float32, each weight and each tensor rounded", style="dim")
    if report.latency:
        console.print(_latency(report))
    for line in (*_slower(report), *_suspicion(report), *_conversions(report)):
        console.print(line, highlight=False, markup=False)
    broken = [check for check in report.checks if not check.passed]
    for check in broken:
        console.print(
            f"[red]broken limit[/red]: {check.name}: {check.value:.4g}, limit {check.limit:g}", highlight=False
        )
    verdict = "[red]FAILED[/red]" if broken else "[green]passed[/green]"
    console.print(f"{verdict}: {len(report.checks) - len(broken)} of {len(report.checks)} limits hold", highlight=False)


def _slower(report: Report) -> Iterator[str]:
    """Precisions that an engine runs slower than float32: they are made for other devices, or other engines."""
    times_ms = {
        (row.engine, row.precision): row.p50_ms for row in report.latency if (row.stage, row.batch) == ("pipeline", 1)
    }
    for (engine, precision), time_ms in times_ms.items():
        ratio = time_ms / times_ms.get((engine, "fp32"), math.inf)
        if ratio > SLOWER:
            other = ", or pip install 'purify-edge[openvino]' and --engine openvino" if engine == "onnxruntime" else ""
            yield f"{precision} takes {ratio:.1f} times as long as fp32 on {engine} here: take fp32{other}"


def _suspicion(report: Report) -> Iterator[str]:
    """How many images of each split are called suspicious."""
    found = report.suspicion
    if found is None:
        return
    shares = ", ".join(
        f"{100 * split.flagged:.1f}% of {split.n} {split.split}"
        + (f" (AUROC {split.auroc:.4f})" if split.auroc is not None else "")
        for split in found.splits
    )
    yield (
        f"suspicious: {shares}; threshold for {100 * found.false_positive_rate:g}% of clean images, set on "
        f"{found.n_calibration}; an attacker who knows the score can evade it"
    )


def _conversions(report: Report) -> Iterator[str]:
    """What the conversions left in float32, tried and could not check, and where they diverge."""
    for layer in report.kept:
        of = f" of {layer.weight}" if layer.weight else ""
        yield f"float32 in {layer.precision}: {layer.role}, {layer.node} ({layer.operator}{of}): {layer.reason}"
    for attempt in report.attempts:
        drops = ", ".join(f"{split} {100 * drop:+.2f}" for split, drop in attempt.drop.items())
        yield (
            f"tried in {attempt.precision}: {attempt.float32_layers} of {attempt.layers} layers in float32, accuracy "
            f"drop in points on {attempt.n} images each: {drops}; limit {100 * attempt.limit:g}"
        )
    for found in report.diverging:
        of = f" of {found.weight}" if found.weight else ""
        yield (
            f"first diverging layer in {found.precision}, {found.split}: {found.node} ({found.operator}{of}), error "
            f"{found.error:.2g}, tolerance {found.tolerance:g}"
        )
    for left_out in report.not_checked:
        yield f"not checked here: {' '.join(filter(None, (left_out.engine, left_out.precision)))}: {left_out.reason}"


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in left:
        table.add_column(column, no_wrap=True)
    for column in right:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _parity(report: Report) -> Table:
    table = _table(
        f"Parity with the PyTorch reference, {report.parity[0].n} images a row; shares in %",
        ("model", "", "images"),
        ("PyTorch\nright", "engine\nright", "same\nclass", "95%\ninterval", "error"),
    )
    for row in report.parity:
        low, high = row.agreement_ci95 or (None, None)
        table.add_row(
            row.role,
            f"{row.precision}{'*' if row.engine == SIMULATION else ''}",
            row.split,
            _percent(row.accuracy_reference),
            _percent(row.accuracy_engine),
            _percent(row.agreement),
            f"{_percent(low)}-{_percent(high)}" if low is not None else "",
            f"{row.max_abs_diff if row.relative_error is None else row.relative_error:.1e}",
        )
    return table


def _latency(report: Report) -> Table:
    first = report.latency[0]
    table = _table(
        f"Latency, {first.n} interleaved calls after {first.warmup}",
        ("engine", "", "stage"),
        ("batch", "p50 ms", "p90 ms", "p99 ms", "images/s"),
    )
    for row in report.latency:
        table.add_row(
            row.engine,
            row.precision,
            row.stage,
            str(row.batch),
            f"{row.p50_ms:.2f}",
            f"{row.p90_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.images_per_s:.0f}",
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
