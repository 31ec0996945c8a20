"""What a report's page says about the bundle, beside the report itself."""

from dataclasses import dataclass

from purify_edge.bundle.manifest import Manifest
from purify_edge.document.model import Example


@dataclass(frozen=True)
class CheckedBundle:
    """The bundle that a report is about."""

    manifest: Manifest
    examples: tuple[Example, ...] = ()  # the first golden images; none where they cannot be shown
    verified: bool = False  # the signature was found to be that of a key which the user trusts

    @property
    def is_unlabelled(self) -> bool:
        """Whether labels are the classifier's own answers on clean images, so that accuracy is agreement with them."""
        run = self.manifest.provenance.get("run")
        return isinstance(run, dict) and bool(run.get("unlabelled"))
