"""How a published network wants its pictures: scaling, size and normalisation, as its library records them."""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast, get_args

from purify_edge.bundle.manifest import Interpolation, Preprocessing
from purify_edge.errors import InputError

Colour = Literal["rgb", "bgr"]
INSTEAD = "give --resize, --crop, --interpolation, --size, --mean and --std yourself"
IMAGENET_MEAN, IMAGENET_STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # what timm takes where a network says nothing
PILLOW: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by its numbers
BLACK = (0, 0, 0)
HUGGING_FACE = """do_resize size resample do_center_crop crop_size do_rescale rescale_factor do_normalize image_mean
image_std crop_pct do_flip_channel_order include_top rescale_offset do_convert_rgb data_format input_data_format device
default_to_square disable_grouping return_tensors backend image_processor_type feature_extractor_type processor_class
model_input_names"""
"""The keys of an image processor that are understood, and those that change nothing here."""


@dataclass(frozen=True)
class PublishedInput:
    """What a library says about a network's input; `size` is height and width, `mean` and `std` are for [0, 1].

    `colour` is the order of the channels that the network takes, in which `mean` and `std` are too.
    """

    preprocessing: Preprocessing
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour: Colour = "rgb"


def from_timm(pretrained_cfg: Mapping[str, Any]) -> PublishedInput:
    """Return what timm's `pretrained_cfg` says, as `timm.data.create_transform` takes it; InputError where it cannot.

    What is missing there is what timm takes then.
    """
    size = _pair("timm", "input_size", tuple(pretrained_cfg.get("input_size") or (3, 224, 224))[1:])
    mean = _numbers("timm", "mean", pretrained_cfg.get("mean") or IMAGENET_MEAN)
    std = _numbers("timm", "std", pretrained_cfg.get("std") or IMAGENET_STD)
    share, mode = pretrained_cfg.get("crop_pct") or 0.875, pretrained_cfg.get("crop_mode") or "center"
    if mode not in ("center", "squash", "border"):
        _refuse("timm", "crop_mode", mode)
    scaled = (math.floor(size[0] / share), math.floor(size[1] / share))
    preprocessing = Preprocessing(
        resize={"center": "shortest", "squash": "stretch", "border": "letterbox"}[mode],  # type: ignore[arg-type]
        scaled=scaled,
        interpolation=_interpolation("timm", pretrained_cfg.get("interpolation") or "bicubic"),
        fill=_levels(mean) if mode == "border" else BLACK,
        rounding="down" if mode == "center" and scaled[0] == scaled[1] else "nearest",
    )
    return PublishedInput(preprocessing, size, mean, std)


def from_torchvision(transforms: object) -> PublishedInput:
    """Return what the `transforms()` of torchvision's weights of a classifier say; InputError for any others.

    They are taken as they treat pictures of Pillow, which are always scaled with antialiasing.
    """
    missing = [
        key for key in ("resize_size", "crop_size", "mean", "std", "interpolation") if not hasattr(transforms, key)
    ]
    if missing:
        _refuse("torchvision", missing[0], "missing")
    about: Any = transforms
    scaled = tuple(about.resize_size)
    preprocessing = Preprocessing(
        resize="shortest" if len(scaled) == 1 else "stretch",
        scaled=_pair("torchvision", "resize_size", scaled * 2 if len(scaled) == 1 else scaled),
        interpolation=_interpolation("torchvision", getattr(about.interpolation, "value", about.interpolation)),
    )
    crop = tuple(about.crop_size)
    size = _pair("torchvision", "crop_size", crop * 2 if len(crop) == 1 else crop)
    mean, std = (_numbers("torchvision", key, getattr(about, key)) for key in ("mean", "std"))
    return PublishedInput(preprocessing, size, mean, std)


def from_ultralytics(metadata: Mapping[str, str]) -> PublishedInput:
    """Return what the metadata of a classifier that Ultralytics exported to ONNX says (`imgsz`, `task`).

    Raises:
        InputError: it is of another task, or says no size.
    """
    if metadata.get("task") != "classify":
        _refuse("Ultralytics", "task", metadata.get("task"), "only classifiers can be purified for")
    try:
        size = _pair("Ultralytics", "imgsz", tuple(ast.literal_eval(metadata.get("imgsz", ""))))
    except (ValueError, SyntaxError, TypeError):
        _refuse("Ultralytics", "imgsz", metadata.get("imgsz"))
    resize: Literal["shortest", "stretch"] = "shortest" if size[0] == size[1] else "stretch"
    return PublishedInput(Preprocessing(resize=resize, scaled=size), size)


def from_hugging_face(processor: object) -> PublishedInput:
    """Return what an image processor of Hugging Face says, or its dict, the content of preprocessor_config.json.

    Raises:
        InputError: it does what cannot be said here, such as to pad, or to split an image into patches.
    """
    about: Mapping[str, Any] = processor if isinstance(processor, Mapping) else _dict_of(processor)
    if "data_config" in about:
        return from_timm(about["data_config"])
    return _HuggingFace(about).published()


def _dict_of(processor: object) -> Mapping[str, Any]:
    content: object = processor.to_dict() if hasattr(processor, "to_dict") else None
    if not isinstance(content, Mapping):
        _refuse("Hugging Face", "type", type(processor).__name__)
    return content


class _HuggingFace:
    """The content of a preprocessor_config.json, read."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = about
        self.kind = str(about.get("image_processor_type") or about.get("feature_extractor_type") or "")
        odd = [key for key in about if key not in HUGGING_FACE.split() and not key.startswith("_") and about[key]]
        if "pad_size" in odd and not about.get("do_pad"):
            odd.remove("pad_size")
        if odd:
            _refuse("Hugging Face", odd[0], about[odd[0]])
        if self.kind.startswith("Perceiver"):
            _refuse("Hugging Face", "image_processor_type", self.kind)
        if not about.get("do_resize", True):
            _refuse("Hugging Face", "do_resize", False)

    def published(self) -> PublishedInput:
        resize, scaled, size = self.sides()
        given = self.about.get("resample")
        number = PILLOW.index("bilinear") if given is None else int(given)
        if number not in range(len(PILLOW)):
            _refuse("Hugging Face", "resample", given)
        preprocessing = Preprocessing(resize=resize, scaled=scaled, interpolation=PILLOW[number], centre="down")
        colour: Colour = "bgr" if self.about.get("do_flip_channel_order") else "rgb"
        return PublishedInput(preprocessing, size, *self.normalisation(), colour)

    def sides(self) -> tuple[Literal["stretch", "shortest"], tuple[int, int], tuple[int, int]]:
        """Return how to resize, to what, and the size of the input."""
        given = self.about.get("size")
        size = dict(given) if isinstance(given, Mapping) else {}
        names = {key for key, value in size.items() if value}
        crop = self.crop() if self.about.get("do_center_crop") else None
        if names == {"height", "width"}:
            both = _pair("Hugging Face", "size", (size["height"], size["width"]))
            return "stretch", both, crop or both
        if names != {"shortest_edge"}:
            _refuse("Hugging Face", "size", given)
        edge, share = size["shortest_edge"], self.about.get("crop_pct")
        if self.kind.startswith("ConvNext") or (share and crop is None):
            if edge >= 384:  # as they were trained: the whole picture, squeezed
                return "stretch", (edge, edge), crop or (edge, edge)
            crop = crop or (edge, edge)
        if crop is None:
            _refuse("Hugging Face", "do_center_crop", False, f"with size {given} every picture has another size")
        long = int(256 / 224 * edge) if self.kind.startswith("Levit") else int(edge / share) if share else edge
        return "shortest", (long, long), crop

    def crop(self) -> tuple[int, int]:
        given = self.about.get("crop_size")
        sides = (given.get("height"), given.get("width")) if isinstance(given, Mapping) else (given, given)
        return _pair("Hugging Face", "crop_size", sides)

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of pixels in [0, 1]: all that is done to them is one factor and one addend a channel."""
        about = self.about
        factor = 255 * about.get("rescale_factor", 1 / 255) if about.get("do_rescale", True) else 255.0
        shift = -1.0 if about.get("rescale_offset") else 0.0
        channels = len(about.get("image_mean") or (0, 0, 0))
        mean, std = (0.0,) * channels, (1.0,) * channels
        own = _numbers("Hugging Face", "image_std", about.get("image_std") or std)
        if about.get("do_normalize"):
            mean, std = _numbers("Hugging Face", "image_mean", about.get("image_mean") or mean), own
        if about.get("include_top"):
            std = tuple(a * b for a, b in zip(std, own, strict=True))
        mean = tuple((value - shift) / factor for value in mean)
        return mean, tuple(value / factor for value in std)


def _refuse(library: str, key: str, value: object, why: str = "that is not known here") -> NoReturn:
    raise InputError(f"{library} says of the network's pictures {key} = {value!r}: {why}; {INSTEAD}")


def _levels(mean: tuple[float, ...]) -> tuple[int, int, int]:
    """Return a mean colour in 8 bits."""
    red, green, blue = (round(255 * value) for value in (mean if len(mean) == 3 else mean[:1] * 3))
    return red, green, blue


def _pair(library: str, key: str, sides: Sequence[Any]) -> tuple[int, int]:
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        _refuse(library, key, sides, "expected height and width")
    return sides[0], sides[1]


def _numbers(library: str, key: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or not all(isinstance(value, (int, float)) for value in values):
        _refuse(library, key, values, "expected a number for each channel")
    return tuple(float(value) for value in values)


def _interpolation(library: str, name: object) -> Interpolation:
    name = "nearest" if name == "nearest-exact" else name
    if name not in get_args(Interpolation):
        _refuse(library, "interpolation", name)
    return cast(Interpolation, name)
