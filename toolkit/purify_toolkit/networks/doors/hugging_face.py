"""A door for image classifiers of Hugging Face's transformers: a folder of `save_pretrained`, or a name on the hub."""

import logging
from typing import Any

from torch import nn

from purify_edge.errors import InputError, MissingError, reason
from purify_edge.extras import require_library
from purify_toolkit.data.published_input import PublishedInput, from_hugging_face
from purify_toolkit.networks.doors.opened import EXTRA, Opened, Wanted, fetched

logger = logging.getLogger("purify_edge")

KEPT = "classifier"
CODE = {"trust_remote_code": False}  # None would ask at the terminal


def opened(name: str, wanted: Wanted) -> Opened:
    """Build a model by its configuration, with its own weights or, for the data's classes, the user's."""
    transformers = require_library("transformers", EXTRA)
    sizes = {"num_labels": wanted.classes} if wanted.own_weights else {}
    config: Any = fetched(f"hf:{name}", lambda: transformers.AutoConfig.from_pretrained(name, **sizes, **CODE))

    def load() -> nn.Module:
        auto = transformers.AutoModelForImageClassification
        if wanted.own_weights or not wanted.fill:
            return auto.from_config(config, **CODE)  # type: ignore[no-any-return]
        network, about = auto.from_pretrained(name, config=config, output_loading_info=True, **CODE)
        if about["missing_keys"]:
            raise InputError(
                f"--classifier hf:{name} has no weights for {', '.join(sorted(about['missing_keys']))}: it is not yet "
                "a trained image classifier; give its weights by --weights FILE"
            )
        return network  # type: ignore[no-any-return]

    names = config.id2label
    return Opened(
        network=fetched(f"hf:{name}", load).float(),
        class_names=() if wanted.own_weights else tuple(names[key] for key in sorted(names)),
        has_weights=not wanted.own_weights,
        files={f"{KEPT}/config.json": config.to_json_string().encode()} | _processor_file(name),
    )


def published(name: str) -> PublishedInput | None:
    """Return what the model's image processor says; None where it has none."""
    processor = _processor(name)
    return None if processor is None else from_hugging_face(processor)


def _processor(name: str) -> Any:
    transformers = require_library("transformers", EXTRA)
    try:
        return transformers.AutoImageProcessor.from_pretrained(name, **CODE)
    except ImportError as error:
        raise MissingError(f"the image processor of hf:{name} needs a library: {error}") from error
    except (OSError, ValueError) as error:
        logger.warning(
            "hf:%s: no image processor (%s): pictures are stretched and pixels stay in [0, 1], unless --resize, --mean "
            "and --std say otherwise",
            *(name, reason(error)),
        )
        return None


def _processor_file(name: str) -> dict[str, bytes]:
    processor = _processor(name)
    return {} if processor is None else {f"{KEPT}/preprocessor_config.json": processor.to_json_string().encode()}
