"""What a report's page tells of the bundle, beside the report itself."""

from dataclasses import dataclass

from purify_edge.bundle.manifest import Manifest
from purify_edge.document.model import Example


@dataclass(frozen=True)
class CheckedBundle:
    """The bundle that a report is about.

    Attributes:
        manifest: the bundle's manifest.
        examples: the first images of the golden set; none where they were not computed or cannot be shown.
        verified: whether the bundle's signature was found to be that of a key which the user trusts.
    """

    manifest: Manifest
    examples: tuple[Example, ...] = ()
    verified: bool = False
