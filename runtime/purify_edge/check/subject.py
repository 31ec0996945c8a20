"""The bundle of a report, with examples of what its first engine makes of golden images."""

from contextlib import ExitStack

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.examples import EXAMPLES, Shown, examples_of
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.pipeline.pipeline import Pipeline, open_model


def subject_of(bundle: Bundle, report: Report, *, policy: EnginePolicy | None = None) -> CheckedBundle:
    """Return the bundle, and what the first engine of its report makes of the first golden images.

    Args:
        bundle: the bundle.
        report: of it, from this device.
        policy: what may be done about engine files; None for the defaults.

    Raises:
        BundleError, MissingError, BuildError: see `open_model` and `load_golden`.
    """
    golden = load_golden(bundle)
    if not {"clean", "adversarial"} <= golden.keys():
        return CheckedBundle(bundle.manifest, verified=bundle.verified)
    clean, attacked = (golden[split].images[:EXAMPLES] for split in ("clean", "adversarial"))
    with _pipeline(bundle, report, policy) as pipeline:
        prediction = pipeline.predict(attacked)
        shown: dict[str, Shown] = {
            "clean": (clean, pipeline.classify(clean)),
            "adversarial": (attacked, pipeline.classify(attacked)),
            "purified": (prediction.purified, prediction.probabilities),
        }
    return CheckedBundle(
        bundle.manifest, examples_of(shown, golden["clean"].labels, pipeline.class_names), bundle.verified
    )


def _pipeline(bundle: Bundle, report: Report, policy: EnginePolicy | None) -> Pipeline:
    first = report.parity[0]
    with ExitStack() as stack:
        purifier, classifier = (
            stack.enter_context(open_model(bundle, role, first.precision, first.engine, policy))
            for role in ("purifier", "classifier")
        )
        pipeline = Pipeline(bundle.manifest, purifier, classifier, suspicion=False)
        stack.pop_all()  # the pipeline closes its engines
    return pipeline
