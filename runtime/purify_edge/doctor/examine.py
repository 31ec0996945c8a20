"""The whole examination: every probe, and a verdict on every engine, which runs a small graph as `purify-run` would."""

import re
from collections.abc import Callable, Iterator

from purify_edge.doctor.child import Answer, printable
from purify_edge.doctor.findings import Diagnosis, EngineVerdict, Finding, Status
from purify_edge.doctor.gpu import probe_cuda, probe_gpu
from purify_edge.doctor.host import Host
from purify_edge.doctor.jetson import probe_jetson
from purify_edge.doctor.libraries import explain
from purify_edge.doctor.packages import DISTRIBUTIONS, NO_GPU, installed, probe_packages
from purify_edge.doctor.system import probe_system

Probe = Callable[[Host], Iterator[Finding]]
NEEDED = re.compile(r"needs '[\w-]+': pip install '[^']+' \((.*?)\)", re.DOTALL)  # as the engines' errors have it

PROBES: dict[str, Probe] = {
    "system": probe_system,
    "jetson": probe_jetson,
    "gpu": probe_gpu,
    "cuda": probe_cuda,
    "packages": probe_packages,
}
"""Area -> what looks at it, in the order of the report."""


def examine(host: Host, *, tell: Callable[[str], None] = lambda area: None) -> Diagnosis:
    """Look at everything, and `tell` of each area before it; a probe that fails is a finding too."""
    findings: list[Finding] = []
    for area, probe in PROBES.items():
        tell(area)
        try:
            findings.extend(probe(host))
        except Exception as error:
            why = (
                f"{type(error).__name__}: {printable(str(error))}; this is a defect of purify-doctor, please report it"
            )
            findings.append(Finding(area, "probe", "failed", Status.PROBLEM, why))
    tell("engines")
    return Diagnosis(engines=tuple(verdicts(host)), findings=tuple(findings))


def verdicts(host: Host) -> Iterator[EngineVerdict]:
    """Yield a verdict on each engine, in the order in which `--engine auto` prefers them."""
    known = host.native("engines")
    if known.failure:
        reason, remedy = explain(known.text, host)
        yield EngineVerdict(name="all", works=False, reason=reason, remedy=remedy)
        return
    for row in known.result["engines"]:
        yield verdict(row["name"], row["device"], row["extra"], host)


def verdict(name: str, device: str, extra: str, host: Host) -> EngineVerdict:
    """Return whether an engine, which runs on a `cpu` or a `gpu` and is installed by an extra, works here."""
    answer = host.native("engine", name)
    if not answer.failure:
        ran_on, version = (printable(str(answer.result[key])) for key in ("device", "version"))
        return EngineVerdict(name=name, works=True, device=ran_on, version=version)
    is_killed = "killed" in answer.failure
    if device == "gpu" and not host.compute_capabilities and not is_killed:
        return EngineVerdict(name=name, works=False, reason=NO_GPU)
    needed = NEEDED.search(answer.failure)
    failure = needed.group(1) if needed else answer.failure.removeprefix("MissingError: ")
    reason, remedy = explain(_cause(answer, failure), host)
    if not remedy and (needed or is_killed) and not (device == "gpu" and host.is_jetson):  # PyPI has none for Jetsons
        there = installed(*DISTRIBUTIONS.get(name, ()))
        uninstall = f"pip uninstall -y {' '.join(there)} && " if there else ""
        remedy = f"{uninstall}pip install 'purify-edge[{extra}]'"
    return EngineVerdict(name=name, works=False, reason=reason, remedy=remedy)


def _cause(answer: Answer, failure: str) -> str:
    """Return ONNX Runtime's own word first: its exception often tells only the consequence, its log the cause."""
    causes = re.findall(r"(?:with error: |CUDA failure \d+: )[^;\n]+", f"{answer.log}\n{failure}")
    return "\n".join([*causes[:1], failure, answer.log])
