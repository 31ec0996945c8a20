"""Shared libraries made by the C compiler: stubs that stand in the place of NVIDIA's own."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_a_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

DRIVER = """
int cuDriverGetVersion(int *version) {{ *version = {cuda}; return 0; }}
int cuInit(unsigned flags) {{ return {error}; }}
int cuGetErrorName(int error, const char **name) {{ *name = "CUDA_ERROR_BY_STUB"; return {nameless}; }}
int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}
int cuDeviceGet(int *device, int index) {{ *device = index; return 0; }}
int cuDeviceGetName(char *name, int length, int device) {{
    const char *mine = "{name}"; int i = 0;
    for (; mine[i] && i < length - 1; ++i) name[i] = mine[i];
    name[i] = 0; return 0;
}}
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) {{ *bytes = 8UL << 30; return 0; }}
int cuDeviceGetAttribute(int *value, int which, int device) {{
    *value = which == 75 ? {major} : which == 76 ? {minor} : which == 18 ? {integrated} : -1; return 0;
}}
"""
EMPTY = "int nothing(void) { return 0; }"
ORIN = {"cuda": 12060, "error": 0, "nameless": 0, "count": 1, "name": "Orin", "major": 8, "minor": 7, "integrated": 1}

Compile = Callable[..., Path]


def compiler_into(folder: Path) -> Compile:
    """Compile C into a shared library in this folder."""

    def compile_library(name: str, source: str, *options: str) -> Path:
        assert COMPILER
        file = folder / f"{name}.c"
        file.write_text(source)
        library = folder / name
        command = [COMPILER, "-shared", "-fPIC", "-w", "-o", str(library), str(file), f"-Wl,-soname,{name}", *options]
        subprocess.run(command, check=True, capture_output=True)
        return library

    return compile_library
