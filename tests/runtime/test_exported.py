from pathlib import Path

import msgspec
import pytest

from helpers.reports import full_report, parity
from purify_runtime.bundle import Bundle
from purify_runtime.errors import BundleError
from purify_runtime.exported import exported_report, with_export


def test_a_device_tells_what_the_exporter_told_of_the_precisions_it_checked() -> None:
    exported = full_report()
    here = full_report(kept=(), attempts=(), diverging=(), accuracy=(), curve=(), suspicion=None)
    told = with_export(here, exported)
    assert (told.accuracy, told.curve) == (exported.accuracy, exported.curve)
    assert told.kept == told.attempts == told.diverging == ()  # they are of fp16 and int8
    assert told.suspicion is None  # measured here, or not at all
    both = msgspec.structs.replace(here, parity=(*here.parity, parity("e", "int8", "defended", "clean")))
    told = with_export(both, exported)
    assert (told.kept, told.attempts, told.diverging) == ((), exported.attempts, exported.diverging)
    assert (told.parity, told.checks, told.passed) == (both.parity, both.checks, both.passed)


def test_a_bundle_without_a_report_adds_nothing(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    older = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, report=None))
    assert exported_report(older) is None
    assert with_export(full_report(), None) == full_report()


def test_the_report_of_a_bundle_is_read_as_it_was_written(bundle_path: Path) -> None:
    report = exported_report(Bundle.open(bundle_path))
    assert report is not None
    assert report.passed
    assert {row.threat for row in report.accuracy} >= {"clean", "grey-box", "white-box"}


def test_a_report_that_is_none_is_refused(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    wrong = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, report=bundle.manifest.golden.file))
    with pytest.raises(BundleError, match=r"golden\.npz does not hold a report.*export the bundle again"):
        exported_report(wrong)
