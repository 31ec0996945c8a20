"""The section on the plan: what `purify-run` runs here, and what it does not run."""

from purify_edge.bundle.report import Report
from purify_edge.document.model import Bullets, Section


def plan_section(report: Report) -> Section | None:
    """Return what runs, with its gain and its agreement; None where the check was of something else."""
    plan = report.plan
    if plan is None:
        return None
    runs = f"{plan}; {plan.precision} stays for the life of a pipeline"
    left_out = ((f"not {name}", reason) for name, reason in plan.left_out.items())
    return Section("What runs here", (Bullets((("purify-run", runs), *left_out)),))
