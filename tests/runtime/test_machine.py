from pathlib import Path

import pytest

from purify_edge.machine import integers_may_saturate

ZEN_3 = "fpu sse4_2 fma avx avx2 vaes vpclmulqdq"
"""An AMD EPYC's flags, some of them."""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("flags", "may"),
    [
        (ZEN_3, True),
        (f"{ZEN_3} avx512f avx512bw avx512_bf16 amx_tile", True),
        (f"{ZEN_3} avx512f avx512_vnni", False),
        (f"{ZEN_3} avx_vnni", False),
        (f"{ZEN_3} amx_int8", False),
        ("", True),
    ],
)
def test_sums_of_8_bit_products_may_saturate_without_the_instructions_for_wide_ones(
    cpuinfo: Path, flags: str, may: bool
) -> None:
    core = f"processor\t: {{}}\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\nbugs\t\t: sysret_ss_attrs\n"
    cpuinfo.write_text("\n".join(core.format(number) for number in range(2)))
    assert integers_may_saturate(cpuinfo) == may


def test_where_nothing_tells_sums_are_taken_to_be_exact(cpuinfo: Path) -> None:
    assert not integers_may_saturate(cpuinfo)
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert not integers_may_saturate(cpuinfo)


@pytest.mark.parametrize(
    ("name", "value"), [("platform.machine", lambda: "aarch64"), ("sys.platform", "darwin")], ids=["Arm", "a Mac"]
)
def test_only_x86_under_linux_is_asked(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    cpuinfo.write_text(f"flags\t\t: {ZEN_3}\n")
    assert integers_may_saturate(cpuinfo)
    monkeypatch.setattr(name, value)
    assert not integers_may_saturate(cpuinfo)
