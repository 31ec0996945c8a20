"""What the doctor found, by name."""

from purify_edge.doctor.findings import Finding


def found(findings: object) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}  # type: ignore[attr-defined]
