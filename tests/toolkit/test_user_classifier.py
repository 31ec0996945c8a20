import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from helpers.refusals import refused
from helpers.user_models import Tiny, trained_tiny
from purify_edge.errors import InputError, MissingError
from purify_export.convert.onnx_from_torch import onnx_from_torch
from purify_toolkit.data.pixels import to_float
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.user_classifier import ClassifierSource, build_classifier, check_classifier
from purify_toolkit.networks.weights import read_weights
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.cli import main as train_command

MEAN, STD = (0.286,), (0.353,)
NAMES = tuple("abcdefghij")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples() -> Split:
    loaded = open_run(None).load_samples()
    return Split(loaded.images, loaded.labels)


@pytest.fixture(scope="module")
def user_network() -> Tiny:
    return trained_tiny(MEAN[0], STD[0], epochs=8)


@pytest.fixture(params=["safetensors", "torch", "checkpoint of DataParallel"])
def weights(request: pytest.FixtureRequest, user_network: Tiny, tmp_path: Path) -> Path:
    state = user_network.state_dict()
    if request.param == "safetensors":
        save_file(state, tmp_path / "mine.safetensors")
        return tmp_path / "mine.safetensors"
    if request.param == "checkpoint of DataParallel":
        state = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(state, tmp_path / "mine.pt")
    return tmp_path / "mine.pt"


def test_it_gives_the_users_logits_from_pixels(weights: Path, user_network: Tiny, samples: Split) -> None:
    built = build_classifier(ClassifierSource("helpers.user_models:Tiny", MEAN, STD), channels=1, classes=10)
    read_weights(built.network, weights)
    pixels = to_float(samples.images[:32])
    with torch.no_grad():
        expected = user_network((pixels - MEAN[0]) / STD[0])
        torch.testing.assert_close(built.eval()(pixels), expected)
    accuracy = check_classifier(built, samples[800:], NAMES, CPU)
    assert 0.6 < accuracy < 1


def test_one_that_takes_bgr_gets_it_in_the_graph_too() -> None:
    source = ClassifierSource("helpers.user_models:Viewing", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), colour="bgr")
    assert ClassifierSource.from_dict(source.as_dict()) == source
    built = build_classifier(source, channels=3, classes=4).eval()
    pixels = torch.rand(2, 3, 14, 14)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (source.mean, source.std))
    with torch.no_grad():
        expected = built.network((pixels[:, [2, 1, 0]] - mean) / std)
        torch.testing.assert_close(built(pixels), expected)
    graph = onnx_from_torch(built, image_shape=(3, 14, 14), output="logits").SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0]), expected)
    with pytest.raises(InputError, match="takes BGR is for images of 3 channels, these have 1"):
        build_classifier(replace(source, mean=(), std=()), channels=1, classes=4)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Tiny", "expected PACKAGE.MODULE:CALLABLE"),
        ("absent.module:Tiny", "no module 'absent' here or installed"),
        ("helpers.user_models:Absent", "helpers.user_models has no 'Absent'"),
        ("helpers.user_models:no_module", r"gave a str, expected a torch\.nn\.Module"),
        ("helpers.user_models:failing", "failed: RuntimeError: no licence for this network"),
        ("torchvision:resnet1800", "failed: ValueError: Unknown model resnet1800"),
    ],
)
def test_what_cannot_be_built_is_named(factory: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_classifier(ClassifierSource(factory), channels=1, classes=10)


def test_a_name_of_torchvision_is_built_for_the_classes() -> None:
    source = ClassifierSource("torchvision:mobilenet_v3_small")
    built = build_classifier(source, channels=3, classes=7).eval()
    with torch.no_grad():
        assert built(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_timm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingError, match=r"pip install 'purify-edge\[classifiers\]'"):
        build_classifier(ClassifierSource("timm:resnet18"), channels=1, classes=10)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.1, 0.2), (0.1, 0.2), "--mean has 2 values, the images have 1 channels"),
        ((0.1,), (), "--mean and --std belong together"),
        ((0.1,), (0.0,), "std must be above 0"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(
    mean: tuple[float, ...], std: tuple[float, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_classifier(ClassifierSource("helpers.user_models:Tiny", mean, std), channels=1, classes=10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Softmaxed", "gives probabilities, expected logits"),
        ("Deaf", "no gradient towards the image"),
        ("NotANumber", "not finite"),
        ("ThreeClasses", r"gives \[8, 3\], expected logits \[8, 10\]"),
        ("Asserting", "cannot take images of 28x28 with 1 channels: AssertionError"),
        (
            "Tiny",
            r"no better than its answers at random, 1?\d\.\d%, where '.' for all",
        ),  # untrained
    ],
)
def test_what_is_no_classifier_of_the_data_is_refused(name: str, message: str, samples: Split) -> None:
    torch.manual_seed(1)
    built = build_classifier(ClassifierSource(f"helpers.user_models:{name}"), channels=1, classes=10)
    with pytest.raises(InputError, match=message):
        check_classifier(built, samples, NAMES, CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--classifier", "helpers.user_models:Tiny"), "names a network without weights: give them by --weights"),
        (("--classifier", "torchvision:resnet18"), "names a network without weights: give them by --weights"),
        (("--weights", "mine.pt"), "they need --classifier"),
        (("--mean", "0.5", "--std", "0.5"), "they need --classifier"),
        (("--classifier", "a:b", "--mean", "half"), "expected numbers with commas between"),
    ],
)
def test_options_that_do_not_go_together_end_with_2(
    small_data: Path, recipe_file: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    arguments = [str(recipe_file), "--data", str(small_data), "--out", str(tmp_path / "run"), *options]
    assert message in refused(CliRunner().invoke(train_command, arguments))
    assert not (tmp_path / "run").exists()


def test_a_classifier_that_cannot_be_exported_ends_with_2_before_the_training(
    small_data: Path, recipe_file: Path, user_network: Tiny, tmp_path: Path
) -> None:
    torch.save(user_network.state_dict(), tmp_path / "mine.pt")
    arguments = [str(recipe_file), "--data", str(small_data), "--out", str(tmp_path / "run"), "--mean", "0.286"]
    arguments += [
        "--std",
        "0.353",
        "--classifier",
        "helpers.user_models:Looping",
        "--weights",
        str(tmp_path / "mine.pt"),
    ]
    message = refused(CliRunner().invoke(train_command, arguments))
    assert (
        "cannot export the PixelClassifier to ONNX: Constraints violated (batch)!; its code fixes the batch" in message
    )
    assert not (tmp_path / "run").exists()


def test_a_network_that_views_channels_last_images_is_taken() -> None:
    torch.manual_seed(0)
    built = build_classifier(ClassifierSource("helpers.user_models:Viewing"), channels=3, classes=4)
    images = torch.randint(0, 256, (40, 3, 14, 14), dtype=torch.uint8)
    with torch.no_grad():
        labels = built(to_float(images)).argmax(1)
    assert check_classifier(built, Split(images, labels), ("a", "b", "c", "d"), CPU) == 1


class Modest(torch.nn.Module):
    """Gives bright images the first of two classes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.mean((1, 2, 3))
        return torch.stack([score, 1 - score], dim=1) * 9


@pytest.mark.parametrize("bright", [100, 60])  # of 200: with 60, one answer for all is right as often
def test_a_modest_classifier_of_two_classes_is_taken(bright: int) -> None:
    images = torch.zeros(200, 1, 4, 4, dtype=torch.uint8)
    images[:bright] = 255
    labels = torch.ones(200, dtype=torch.long)
    labels[:bright] = 0
    labels[:30] ^= 1
    labels[-30:] ^= 1  # right on 70%
    assert check_classifier(Modest(), Split(images, labels), ("a", "b"), CPU) == 0.7


def test_one_answer_for_all_is_refused_however_often_it_is_right() -> None:
    images = torch.zeros(200, 1, 4, 4, dtype=torch.uint8)
    labels = torch.ones(200, dtype=torch.long)
    labels[:20] = 0
    with pytest.raises(
        InputError, match=r"right on 90.0% of 200 .* at random, 90\.0%, where 'b' for all is right on 90\.0%"
    ):
        check_classifier(Modest(), Split(images, labels), ("a", "b"), CPU)
