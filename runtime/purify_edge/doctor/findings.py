"""What the doctor says: findings, verdicts, and the diagnosis that they make up. Nothing here can be broken."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

SCHEMA_VERSION = 2
"""Of the JSON. It grows when a key is renamed or removed or changes its meaning; new keys may come without that."""


class Status(str, Enum):
    """How a finding matters."""

    OK = "ok"
    WARNING = "warning"  # works, but slower or less well than it could
    PROBLEM = "problem"  # something is there and does not work
    ABSENT = "absent"  # not there; whether it is missed depends on what one wants to run


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str  # the probe's name, a key of PROBES
    name: str  # what was looked at
    value: str  # what was found: a version, a size, a name
    status: Status = Status.OK  # how it matters
    reason: str = ""  # why it has this status
    remedy: str = ""  # the command that comes next, or several joined by `&&`


@dataclass(frozen=True, kw_only=True)
class EngineVerdict:
    """Whether an engine of purify-edge ran a small graph here and gave the right numbers."""

    name: str  # what `--engine` calls it
    works: bool  # whether it did
    device: str = ""  # where it ran, such as `cpu` or `cuda:0`
    version: str = ""  # of its library
    reason: str = ""  # why it does not work
    remedy: str = ""  # the command that comes next


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings, and which engines work."""

    engines: Sequence[EngineVerdict]
    findings: Sequence[Finding]

    @property
    def works(self) -> bool:
        """Return whether at least one engine works here."""
        return any(engine.works for engine in self.engines)

    def as_json(self) -> str:
        """Return the diagnosis as indented JSON; the keys are those of the dataclasses."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "works": self.works,
            "engines": [asdict(engine) for engine in self.engines],
            "findings": [asdict(finding) for finding in self.findings],
        }
        return json.dumps(content, indent=2)
