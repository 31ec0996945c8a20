"""Which shared libraries an ELF file needs, and which of them this machine lacks.

Layout: Tool Interface Standard, ELF Specification 1.2, and elf(5). Only what our devices run: 64 bits, little-endian.
"""

import ctypes
import mmap
import re
import struct
from pathlib import Path

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 1, 5, 15, 29

_UNLOADABLE = (
    r"([\w.+-]+\.so[\w.]*): (?:cannot open shared object file|file too short|invalid ELF header)",  # glibc
    r"Error loading shared library ([\w.+-]+\.so[\w.]*):",  # musl
)


def libraries_in(message: str) -> list[str]:
    """The libraries that the dynamic loader could not load, by its own message or by a log that quotes it.

    >>> libraries_in("ImportError: libnvinfer.so.10: cannot open shared object file: No such file or directory")
    ['libnvinfer.so.10']
    """
    found = [match for pattern in _UNLOADABLE for match in re.findall(pattern, message)]
    return list(dict.fromkeys(found))


def dynamic_section(content: bytes | mmap.mmap) -> tuple[list[str], list[str]]:
    """The names of the libraries that an ELF file needs, and the folders that it looks for them in.

    Raises:
        ValueError: not a 64-bit little-endian ELF file, or a damaged one.
    """
    if content[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        return _read_dynamic_section(content)
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError(f"a damaged ELF file: {error}") from error


def _read_dynamic_section(content: bytes | mmap.mmap) -> tuple[list[str], list[str]]:
    (offset,) = struct.unpack_from("<Q", content, 32)
    entry_size, count = struct.unpack_from("<HH", content, 54)
    headers = [struct.unpack_from("<IIQQQQ", content, offset + index * entry_size) for index in range(count)]
    loads = [(address, start, length) for kind, _, start, address, _, length in headers if kind == PT_LOAD]
    tags: list[tuple[int, int]] = []
    for kind, _, start, _, _, length in headers:
        if kind == PT_DYNAMIC:
            tags = [struct.unpack_from("<qQ", content, start + at) for at in range(0, length, 16)]
    table = next((value for tag, value in tags if tag == DT_STRTAB), 0)
    strings = next((start + table - address for address, start, length in loads if 0 <= table - address < length), 0)

    def string(at: int) -> str:
        return content[strings + at : content.find(b"\0", strings + at)].decode(errors="replace")

    needed = [string(value) for tag, value in tags if tag == DT_NEEDED]
    folders = [string(value) for tag, value in tags if tag in {DT_RPATH, DT_RUNPATH}]
    return needed, [folder for joined in folders for folder in joined.split(":")]


def missing_libraries(file: Path) -> list[str]:
    """The libraries that keep a shared library from loading. Loads the others: call it in a child process.

    Where a needed library is there, but not what that one needs in turn, the latter is named.

    Raises:
        ValueError, OSError: the file is no ELF file, or cannot be read.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        needed, folders = dynamic_section(content)
    here = [
        Path(folder.replace("$ORIGIN", str(file.parent)).replace("${ORIGIN}", str(file.parent))) for folder in folders
    ]
    missing: list[str] = []
    for name in needed:
        beside = next((folder / name for folder in here if (folder / name).exists()), None)
        try:
            ctypes.CDLL(str(beside or name))
        except OSError as error:
            missing += libraries_in(str(error)) or [name]
    return list(dict.fromkeys(missing))
