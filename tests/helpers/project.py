"""What the project says of itself."""

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parent.parent.parent
_CONFIGURATION: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = _CONFIGURATION["project"]
GROUPS = {
    name: [entry for entry in entries if isinstance(entry, str)]  # without the groups that it includes
    for name, entries in _CONFIGURATION["dependency-groups"].items()
}
