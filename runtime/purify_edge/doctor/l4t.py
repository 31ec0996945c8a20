"""The release of Jetson Linux (L4T), as its files and its packages name it."""

import re

from purify_edge.doctor.text import numbers


def l4t_from_release(text: str) -> tuple[int, ...]:
    """The release in /etc/nv_tegra_release; empty where it is not one.

    >>> l4t_from_release("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64")
    (36, 4, 3)
    """
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", text)
    return (int(found.group(1)), *numbers(found.group(2))) if found else ()


def l4t_from_package(version: str) -> tuple[int, ...]:
    """The release in the version of the package nvidia-l4t-core, `36.4.3-20250107174145` say."""
    return numbers(version.partition("-")[0])
