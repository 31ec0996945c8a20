from pathlib import Path

import msgspec
import pytest

from helpers.reports import full_report, parity
from purify_edge.bundle.export_report import Exported, exported, with_export
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import encode_report
from purify_edge.errors import BundleError


def test_a_device_tells_what_the_exporter_told_of_the_precisions_it_checked() -> None:
    report = full_report()
    told = Exported(report.kept, report.attempts, report.accuracy, report.curve)
    here = full_report(kept=(), attempts=(), accuracy=(), curve=())
    found = with_export(here, told)
    assert (found.accuracy, found.curve) == (report.accuracy, report.curve)
    assert found.kept == found.attempts == ()  # they are of fp16 and int8
    both = msgspec.structs.replace(here, parity=(*here.parity, parity("e", "int8", "defended", "clean")))
    found = with_export(both, told)
    assert (found.kept, found.attempts) == ((), report.attempts)
    assert (found.parity, found.checks, found.passed) == (both.parity, both.checks, both.passed)


def test_a_bundle_without_a_report_tells_nothing(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    assert exported(Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, report=None))) == Exported()


def test_a_report_of_outputs_that_are_not_numbers_can_be_read() -> None:
    report = full_report(parity=(msgspec.structs.replace(full_report().parity[0], max_abs_diff=float("nan")),))
    assert msgspec.json.decode(encode_report(report), type=Exported).kept == report.kept


def test_a_report_that_is_none_is_refused(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    wrong = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, report=bundle.manifest.golden.file))
    with pytest.raises(BundleError, match=r"golden\.npz does not hold a report.*export the bundle again"):
        exported(wrong)
