"""What this machine has for purify-edge, what is missing, and what to do about it.

Nothing here imports an engine, nor numpy, in this process: what may be broken is looked at from child processes.
"""

from collections.abc import Callable, Iterator

from purify_edge.doctor.findings import Diagnosis, EngineVerdict, Finding, Status
from purify_edge.doctor.gpu import probe_cuda, probe_gpu
from purify_edge.doctor.host import Host
from purify_edge.doctor.jetson import probe_jetson
from purify_edge.doctor.packages import (
    probe_onnxruntime,
    probe_openvino,
    probe_rtx,
    probe_tensorrt,
    probe_torch,
)
from purify_edge.doctor.system import probe_python, probe_system
from purify_edge.doctor.text import first_line, printable

Probe = Callable[[Host], Iterator[Finding]]

PROBES: dict[str, Probe] = {
    "python": probe_python,
    "system": probe_system,
    "jetson": probe_jetson,
    "gpu": probe_gpu,
    "cuda": probe_cuda,
    "onnxruntime": probe_onnxruntime,
    "tensorrt": probe_tensorrt,
    "tensorrt_rtx": probe_rtx,
    "openvino": probe_openvino,
    "torch": probe_torch,
}
"""Area -> what looks at it, in the order of the report."""


def examine(host: Host, *, tell: Callable[[str], None] = lambda area: None) -> Diagnosis:
    """Look at everything. Raises nothing: a probe that fails is a finding too.

    Args:
        host: the machine.
        tell: is called with each area before it is looked at, and with `engines` at last.
    """
    findings: list[Finding] = []
    for area, probe in PROBES.items():
        tell(area)
        findings += _guarded(area, probe, host)
    tell("engines")
    return Diagnosis(engines=tuple(_verdicts(host)), findings=tuple(findings))


def _guarded(area: str, probe: Probe, host: Host) -> Iterator[Finding]:
    try:
        yield from probe(host)
    except Exception as error:
        reason = f"{type(error).__name__}: {printable(str(error))}; this is a defect of purify-doctor, please report it"
        yield Finding(area, "probe", "failed", Status.PROBLEM, reason)


def _verdicts(host: Host) -> Iterator[EngineVerdict]:
    """Run a small graph on each engine of purify-edge, as its other commands would."""
    names = host.native("engine_names")
    if names.failure:
        yield EngineVerdict(name="all", works=False, reason=first_line(names.failure))
        return
    for name in names.result["names"]:
        outcome = host.native("engine", name)
        if outcome.failure:
            reason = outcome.failure.removeprefix("MissingError: ")
            yield EngineVerdict(name=name, works=False, reason=first_line(reason))
        else:
            yield EngineVerdict(
                name=name, works=True, **{key: printable(str(outcome.result[key])) for key in ("device", "version")}
            )
