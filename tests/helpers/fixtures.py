"""The types of fixtures that are called."""

import subprocess
from collections.abc import Callable
from typing import Any

Imitate = Callable[..., Any]
Run = Callable[..., tuple[int, str, str]]
Start = Callable[..., "subprocess.Popen[str]"]
