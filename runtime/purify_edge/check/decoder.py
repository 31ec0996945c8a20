"""The check of the decoder: what this device's makes of the golden set's files, beside what the exporter's made."""

from collections.abc import Iterator

import numpy as np

from purify_edge.bundle.golden_files import load_files, thinned
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Check
from purify_edge.images.decoding import decode_image

MAX_LEVELS, MEAN_LEVELS = 3.0, 0.25
"""How far a pixel may lie from the exporter's, of 255 levels, and all of them on average. Decoders of JPEG round in
their own ways, by a level or two; another filter, place or order of channels is further off."""


def decoder_checks(bundle: Bundle) -> Iterator[Check]:
    """Yield the limits of how far decoded and fitted files lie from the exporter's; none for bundles without files.

    Raises:
        BundleError, InputError: the files are damaged, or cannot be decoded here.
    """
    golden = load_files(bundle)
    if golden is None:
        return
    found = [
        thinned(decode_image(content, bundle.manifest.input, source=f"golden file {name}"))
        for name, content in golden.files.items()
    ]
    levels = np.abs(np.stack(found).astype(np.int16) - golden.pixels)
    what = f"of pixels of {len(found)} image files from the exporter's, in levels of 255"
    for kind, value, limit in (("largest", levels.max(), MAX_LEVELS), ("mean", levels.mean(), MEAN_LEVELS)):
        yield Check(name=f"{kind} difference {what}", value=float(value), limit=limit, passed=float(value) <= limit)
