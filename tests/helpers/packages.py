"""Python packages that crash, hang or lie, written where they are imported from."""

from pathlib import Path

from purify_edge.doctor.host import Host

SEGFAULT = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANG = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"


def install(folder: Path, name: str, source: str, *, distribution: str = "", version: str = "1.0") -> None:
    """Write a package into a folder, with metadata under another name if so wished."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "__init__.py").write_text(source)
    if distribution:
        metadata = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")


def host(tmp_path: Path, seconds: float = 60) -> Host:
    return Host(tmp_path, native_s=seconds)
