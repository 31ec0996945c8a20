"""Memory that was freed goes back to the system."""

import platform
from pathlib import Path

import pytest

from lab.speed.process import resident_mib
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.models import Setup, open_model
from purify_edge.machine import return_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries return memory themselves")
BLOCKS_MIB = 48


def freed_below_a_block_in_use() -> tuple[bytes, float]:
    """Free many blocks below one that is kept, as reading a model does; the kept one, and what is resident then."""
    size = 60_000  # of those that glibc takes from its heap rather than from the system
    blocks = [bytes([1]) * size for _ in range(BLOCKS_MIB * 2**20 // size)]
    return blocks[-1], resident_mib()


def test_freed_memory_goes_back() -> None:
    kept, before = freed_below_a_block_in_use()
    return_memory()
    assert resident_mib() < before - BLOCKS_MIB / 2
    assert kept


def test_opening_a_model_leaves_no_garbage(bundle_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    setup = Setup("onnxruntime", "fp32", "fp32")
    open_model(Bundle.open(bundle_path), "purifier", setup).close()  # what the library itself takes
    kept, before = freed_below_a_block_in_use()
    with open_model(Bundle.open(bundle_path), "purifier", setup):
        assert resident_mib() < before - BLOCKS_MIB / 2
    assert kept
