"""What libraries say of a network's pictures is taken over, and makes the very pixels that the libraries make."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib.cbook
import numpy as np
import pytest
import torchvision.models
from PIL import Image
from torchvision import transforms
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import InterpolationMode

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError
from purify_edge.images.fitting import fitted
from purify_toolkit.data.published_input import (
    PublishedInput,
    from_hugging_face,
    from_timm,
    from_torchvision,
    from_ultralytics,
)

SIZES = {
    "landscape": (512, 333),
    "portrait": (301, 606),
    "tiny": (9, 7),
    "a pixel wide": (1, 60),
    "a pixel high": (45, 1),
    "huge": (3071, 2047),
    "nearly square": (257, 256),
    "as asked": (224, 224),
}


def jpeg(size: tuple[int, int]) -> Image.Image:
    """A photograph of another size, decoded from a JPEG."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        picture = Image.open(file).convert("RGB").resize(size)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return Image.open(buffer)


def check_same(published: PublishedInput, theirs: Callable[[Image.Image], Any], *, share: float = 0) -> None:
    """See that the library's input is ours to 1/255 a pixel, but for a share of them, for pictures of all sizes."""
    assert published.size is not None
    mean, std = (
        np.array(values or [fill])[:, None, None] for values, fill in ((published.mean, 0), (published.std, 1))
    )
    contract = InputContract(
        channels=3, height=published.size[0], width=published.size[1], preprocessing=published.preprocessing
    )
    for name, size in SIZES.items():
        picture = jpeg(size)
        expected = np.asarray(theirs(picture)) * std + mean
        pixels = fitted(picture, contract).transpose(2, 0, 1)[:: -1 if published.colour == "bgr" else 1] / 255
        assert pixels.shape == expected.shape, name
        assert np.mean(np.abs(pixels - expected) > 1.02 / 255) <= share, name


@pytest.mark.parametrize("name", ["ResNet18", "EfficientNet_B1", "ViT_B_16", "Swin_T", "MobileNet_V3_Small"])
def test_weights_of_torchvision(name: str) -> None:
    for weights in torchvision.models.get_model_weights(name.lower()):
        preset = weights.transforms()
        check_same(from_torchvision(preset), preset)


@pytest.mark.parametrize("mode", InterpolationMode)
@pytest.mark.parametrize("sizes", [(232, 225), (129, 128), (100, 224)])
def test_transforms_of_torchvision(mode: InterpolationMode, sizes: tuple[int, int]) -> None:
    preset = ImageClassification(resize_size=sizes[0], crop_size=sizes[1], interpolation=mode)
    check_same(from_torchvision(preset), preset)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border", None])
@pytest.mark.parametrize(
    "config",
    [
        {"interpolation": "bicubic", "crop_pct": 0.875, "input_size": (3, 224, 224)},
        {"interpolation": "bilinear", "crop_pct": 0.95, "input_size": (3, 289, 289), "mean": (0.5, 0.4, 0.3)},
        {"interpolation": "lanczos", "crop_pct": 1.0, "input_size": (3, 128, 192), "std": (0.5, 0.5, 0.5)},
        {"interpolation": "bicubic", "crop_pct": 0.9, "input_size": (3, 175, 100)},
        {},
    ],
)
def test_configurations_of_timm(config: dict[str, Any], crop_mode: str | None) -> None:
    data = pytest.importorskip("timm.data")
    config = config | {"crop_mode": crop_mode}
    check_same(from_timm(config), data.create_transform(**data.resolve_data_config(pretrained_cfg=config)))


PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViTImageProcessor", {}),
    ("ViTImageProcessor", {"size": {"height": 97, "width": 131}, "resample": 3, "do_normalize": False}),
    ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}),
    ("DeiTImageProcessor", {}),
    ("BeitImageProcessor", {}),
    ("CLIPImageProcessor", {}),
    ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": 225}),
    ("SiglipImageProcessor", {}),
    ("ConvNextImageProcessor", {}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.95, "resample": 2}),
    ("MobileNetV2ImageProcessor", {}),
    ("MobileViTImageProcessor", {}),
    ("LevitImageProcessor", {}),
    ("PoolFormerImageProcessor", {}),
    ("EfficientNetImageProcessor", {"do_center_crop": True, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ("EfficientNetImageProcessor", {"include_top": False, "resample": 0}),
    ("PvtImageProcessor", {"do_flip_channel_order": False}),
]


@pytest.mark.parametrize(("backend", "share"), [("Pil", 0), ("", 0.005)])
@pytest.mark.parametrize(("name", "settings"), PROCESSORS)
def test_image_processors_of_hugging_face(name: str, settings: dict[str, Any], backend: str, share: float) -> None:
    """Its processors of tensors round otherwise than its own of Pillow, where an edge overshoots."""
    transformers = pytest.importorskip("transformers", minversion="5")
    processor = getattr(transformers, name + backend)(**settings)

    def theirs(picture: Image.Image) -> Any:
        return processor(picture, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]

    check_same(from_hugging_face(processor), theirs, share=share)
    assert from_hugging_face(processor.to_dict()) == from_hugging_face(processor)


def test_a_network_of_timm_at_hugging_face_says_what_timm_says() -> None:
    config = {"input_size": (3, 96, 96), "crop_pct": 0.9, "interpolation": "bilinear", "mean": (0.5,) * 3}
    assert from_hugging_face({"image_processor_type": "TimmWrapper", "data_config": config}) == from_timm(config)
    grey = from_timm(config | {"mean": (0.5,), "crop_mode": "border"})
    assert grey.preprocessing.fill == (128, 128, 128)


def test_a_classifier_of_ultralytics() -> None:
    """Its transforms are torchvision's; where the size is no square, they stretch."""
    metadata = {"task": "classify", "imgsz": "[224, 224]", "names": "{0: 'cat', 1: 'dog'}", "stride": "1"}
    theirs = transforms.Compose([transforms.Resize(224), transforms.CenterCrop(224), transforms.ToTensor()])
    check_same(from_ultralytics(metadata), theirs)
    wide = transforms.Compose([transforms.Resize((96, 160)), transforms.CenterCrop((96, 160)), transforms.ToTensor()])
    check_same(from_ultralytics(metadata | {"imgsz": "[96, 160]"}), wide)


@pytest.mark.parametrize(
    ("read", "given", "message"),
    [
        (from_timm, {"crop_mode": "random"}, "timm says of the network's pictures crop_mode = 'random'"),
        (from_timm, {"interpolation": "random"}, "interpolation = 'random'"),
        (from_timm, {"input_size": (3, 224)}, r"input_size = \(224,\): expected height and width"),
        (from_torchvision, object(), "torchvision says .* resize_size = 'missing'"),
        (from_ultralytics, {"task": "detect", "imgsz": "[640, 640]"}, "task = 'detect': only classifiers"),
        (from_ultralytics, {"task": "classify"}, "imgsz = None"),
        (from_hugging_face, object(), "type = 'object'"),
        (from_hugging_face, {"size": 224}, "size = 224"),
        (from_hugging_face, {"size": {"shortest_edge": 224}}, "every picture has another size"),
        (from_hugging_face, {"size": {"shortest_edge": 224, "longest_edge": 448}}, "size = "),
        (from_hugging_face, {"size": {"height": 9, "width": 9}, "do_pad": True}, "do_pad = True"),
        (from_hugging_face, {"size": {"height": 9, "width": 9}, "resample": 9}, "resample = 9"),
        (from_hugging_face, {"size": {"height": 9, "width": 9}, "do_resize": False}, "do_resize = False"),
        (from_hugging_face, {"image_processor_type": "PerceiverImageProcessor"}, "image_processor_type"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(read: Callable[[Any], PublishedInput], given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(given)
    assert "give --resize, --crop" in str(caught.value)
