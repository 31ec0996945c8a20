"""Text from machines that may be broken, made fit for a terminal."""

import re


def printable(text: str) -> str:
    r"""The text on one line, without control characters and colours: a file or a log may hold anything.

    >>> printable("NVIDIA\x1b[31m  Orin\0\n")
    'NVIDIA Orin'
    """
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def size(number_of_bytes: float) -> str:
    """A size in the largest unit that fits.

    >>> size(7_990_000_000), size(512 * 1024**2)
    ('7.4 GiB', '512 MiB')
    """
    gib = number_of_bytes / 1024**3
    return f"{gib:.1f} GiB" if gib >= 1 else f"{number_of_bytes / 1024**2:.0f} MiB"


def first_line(text: str, *, limit: int = 300) -> str:
    r"""The first line that says something, cut to `limit` characters.

    >>> first_line("\n  a\nb")
    'a'
    """
    lines = [printable(line) for line in text.splitlines()]
    line = next((line for line in lines if line), "")
    return line if len(line) <= limit else line[: limit - 3] + "..."


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, for comparison; empty where there are none.

    >>> numbers("10.3.0-1+cuda12.5"), numbers("R36"), numbers("")
    ((10, 3, 0), (), ())
    """
    found = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits:
            found.append(int(digits))
        if digits != part:
            break
    return tuple(found)
