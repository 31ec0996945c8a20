"""A door for timm: `NAME` with the user's weights; `NAME.TAG`, `hf-hub:OWNER/NAME`, `local-dir:FOLDER` with theirs."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from purify_edge.extras import require_library
from purify_toolkit.data.published_input import PublishedInput, from_timm
from purify_toolkit.networks.doors.opened import EXTRA, Opened, Wanted, fetched

LOCAL = "local-dir:"
KEPT = "classifier"
ELSEWHERE = ("hf-hub:", "hf_hub:", LOCAL)


def opened(name: str, wanted: Wanted) -> Opened:
    """Build a model: with the user's own weights for the data's classes, else as it was published."""
    has_weights = not wanted.own_weights and (name.startswith(ELSEWHERE) or "." in name)
    arguments = {} if has_weights else {"in_chans": wanted.channels, "num_classes": wanted.classes}
    network = _built(name, pretrained=has_weights and wanted.fill, **arguments)
    names = network.pretrained_cfg.get("label_names") or ()
    return Opened(
        network=network,
        class_names=tuple(names.values() if isinstance(names, dict) else names) if has_weights else (),
        has_weights=has_weights,
        files={f"{KEPT}/config.json": _config(network)} if name.startswith(ELSEWHERE) else {},
    )


def published(name: str) -> PublishedInput | None:
    """Return what the model's `pretrained_cfg` says."""
    return from_timm(_built(name).pretrained_cfg)


def _built(name: str, **arguments: Any) -> Any:
    timm = require_library("timm", EXTRA)
    return fetched(f"timm:{name}", lambda: timm.create_model(name, **arguments))


def _config(network: Any) -> bytes:
    """Return the configuration by which timm builds the network again without its hub."""
    with TemporaryDirectory() as folder:
        require_library("timm.models", EXTRA).save_for_hf(network, folder)
        return (Path(folder) / "config.json").read_bytes()
