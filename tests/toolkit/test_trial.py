from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify_edge.errors import InputError
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.pixel_classifier import PixelClassifier
from purify_toolkit.networks.trial import answer_of, check_independence, plain_logits
from purify_toolkit.networks.user_classifier import check_classifier

Output = namedtuple("Output", ["logits", "features"])
SIDE, NAMES, CPU = 12, ("a", "b", "c", "d"), torch.device("cpu")
IMAGES = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Four classes, by what a function makes of 16 features `[N, 16]`, and layers that it may use."""

    def __init__(self, change: Callable[["Network", Tensor], Any], *layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16)), nn.Linear(16, 4)
        self.layers, self.change = nn.ModuleList(layers), change

    def forward(self, x: Tensor) -> Any:
        features = self.change(self, self.stem(x))
        return self.head(features) if isinstance(features, Tensor) and features.shape[-1] == 16 else features


def layer(network: Network, features: Tensor) -> Tensor:
    return network.layers[0](features)


def in_training(network: Network, features: Tensor) -> Tensor:
    return network.layers[0].train()(features)


def one_value(network: Network, features: Tensor) -> Tensor:
    return features * network.layers[0](features.mean(1, keepdim=True))


def attending(network: Network, features: Tensor) -> Tensor:
    """Forget `batch_first=True`: each image attends to the others of its batch."""
    values = features[:, None]
    return network.layers[0](values, values, values)[0].squeeze(1)


ALONE = "for images each alone than for the same 8 in one batch"
DEPENDENT: dict[str, tuple[nn.Module, str]] = {
    "batch norm": (Network(layer, nn.BatchNorm1d(16, track_running_stats=False)), r"statistics in layers\.0: keep"),
    "in training": (Network(in_training, nn.BatchNorm1d(16)), r"uses the batch's statistics in layers\.0: keep"),
    "one value": (
        Network(one_value, nn.BatchNorm1d(1, track_running_stats=False)),
        r"fails at images each alone, not at the same 8 in one batch \(Expected more than 1 value",
    ),
    "by a function": (
        Network(lambda _, x: F.batch_norm(x[:, None], None, None, training=True)[:, 0]),
        f"{ALONE}: .*look for F.batch",
    ),
    "the batch's mean": (Network(lambda _, x: x - x.mean(0)), ALONE),
    "the batch's largest": (Network(lambda _, x: x / x.abs().max()), ALONE),
    "attention": (Network(attending, nn.MultiheadAttention(16, 2)), ALONE),
    "place": (Network(lambda _, x: x + torch.eye(16)[: len(x)]), ALONE),
    "a fixed batch": (Network(lambda _, x: x.new_zeros(8, 16) + x), ALONE),
    "dropout": (Network(lambda _, x: F.dropout(x, 0.1)), r"when it is asked again: .* F\.dropout without training"),
    "dropout for ever": (Network(in_training, nn.Dropout(0.1)), "when it is asked again"),
    "noise": (Network(lambda _, x: x + 0.1 * torch.randn_like(x)), "when it is asked again"),
    "order": (Network(lambda _, x: x + torch.arange(len(x)).sub(3.5).sign()[:, None]), "in another order|each alone"),
}


@pytest.mark.parametrize("kind", DEPENDENT)
def test_an_answer_may_depend_on_its_image_only(kind: str) -> None:
    network, message = DEPENDENT[kind]
    with pytest.raises(InputError, match=message):
        check_independence("classifier", network.eval(), IMAGES)


@pytest.mark.parametrize(
    "network",
    [
        Network(layer, nn.BatchNorm1d(16)),
        Network(layer, nn.LayerNorm(16)),
        Network(lambda _, x: F.instance_norm(x[:, None])[:, 0]),
        Network(lambda _, x: x.bfloat16().float()),
        Network(lambda _, x: F.dropout(x, 0.1, training=False)),
    ],
)
def test_what_depends_on_its_image_only_is_taken(network: Network) -> None:
    check_independence("classifier", network.eval(), IMAGES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, x: (x[:, :4], x), r"gives a tuple of float32 \[8, 4\], float32 \[8, 16\], expected one tensor, its"),
        (lambda _, x: [x[:, :4]], r"gives a list of float32 \[8, 4\], expected"),
        (lambda _, x: {"out": x[:, :4], "aux": None}, r"gives a dict of out: float32 \[8, 4\], aux: None, expected"),
        (lambda _, x: OrderedDict(logits=x[:, :4]), r"gives a OrderedDict of logits: float32 \[8, 4\], expected"),
        (lambda _, x: Output(x[:, :4], x), r"gives a Output of logits: float32 \[8, 4\], features: float32 \[8, 16\]"),
        (lambda _, x: x.argmax(1), r"gives int64 \[8\], expected one tensor, its logits, floats \[N, K\]; wrap it in"),
        (lambda _, x: None, "gives None, expected one tensor"),
    ],
)
def test_what_is_no_tensor_of_logits_is_described(change: Callable[[Network, Tensor], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer_of("classifier", Network(change).eval(), IMAGES)


@dataclass
class Answer:
    logits: Tensor


@pytest.mark.parametrize(
    "change",
    [
        lambda _, x: x[:, :4],
        lambda _, x: (x[:, :4], None),
        lambda _, x: (x[:, :4], x[:, None]),
        lambda _, x: {"out": x[:, :4], "aux": None},
        lambda _, x: OrderedDict(features=x, logits=x[:, :4]),
        lambda _, x: Output(x[:, :4], x),
        lambda _, x: Answer(x[:, :4]),
    ],
)
def test_logits_are_found_in_an_answer_where_that_is_plain(change: Callable[[Network, Tensor], Any]) -> None:
    network = Network(change)
    torch.testing.assert_close(plain_logits(network(IMAGES)), network.stem(IMAGES)[:, :4])


@pytest.mark.parametrize("answer", [(IMAGES, IMAGES), (IMAGES[:, 0, 0], IMAGES[:, 0, 1]), {}, None, IMAGES.long()])
def test_what_holds_no_logits_or_several_is_left_to_the_message(answer: Any) -> None:
    assert plain_logits(answer) is answer


@pytest.mark.parametrize("change", [lambda _, x: x[:, :1], lambda _, x: x[:, 0]])
def test_a_single_logit_is_that_of_the_second_class(change: Callable[[Network, Tensor], Tensor]) -> None:
    classifier = PixelClassifier(Network(change), mean=torch.zeros(1), std=torch.ones(1)).eval()
    logits = classifier(IMAGES)
    torch.testing.assert_close(logits[:, 1], classifier.network.stem(IMAGES)[:, 0])
    assert not logits[:, 0].any()
    many = torch.randint(0, 256, (40, 3, SIDE, SIDE), dtype=torch.uint8)
    assert check_classifier(classifier, Split(many, classifier(many / 255).argmax(1)), ("a", "b"), CPU) == 1


def test_a_single_probability_is_refused() -> None:
    classifier = PixelClassifier(Network(lambda _, x: x[:, 0].sigmoid()), mean=torch.zeros(1), std=torch.ones(1))
    many = torch.randint(0, 256, (8, 3, SIDE, SIDE), dtype=torch.uint8)
    with pytest.raises(InputError, match="gives a probability, expected a logit: leave out its last sigmoid"):
        check_classifier(classifier, Split(many, torch.ones(8, dtype=torch.long)), ("a", "b"), CPU)


def checked(network: nn.Module) -> float:
    """The check of a training, on images that the network itself has labelled."""
    classifier = PixelClassifier(network, mean=torch.zeros(1), std=torch.ones(1)).eval()
    pixels = torch.randint(0, 256, (40, 3, SIDE, SIDE), dtype=torch.uint8)
    labels = classifier(pixels.to(next(network.parameters()).dtype) / 255).argmax(1)
    return check_classifier(classifier, Split(pixels, labels), NAMES, CPU)


def autocast(_: Network, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x.new_ones(16, 4).cumsum(1).cumsum(0).sin()


@pytest.mark.parametrize("change", [lambda _, x: x[:, :4].double(), lambda _, x: x[:, :4].half(), autocast])
def test_logits_of_another_float_type_become_float32(change: Callable[[Network, Tensor], Tensor]) -> None:
    network = Network(change)
    assert network(IMAGES).dtype != torch.float32
    assert PixelClassifier(network, mean=torch.zeros(1), std=torch.ones(1))(IMAGES).dtype == torch.float32
    assert checked(network) == 1


def test_weights_of_another_float_type_are_refused() -> None:
    with pytest.raises(InputError, match=r"must be in float32 on the CPU, its network.stem.1.weight is torch.float64"):
        checked(Network(lambda _, x: x).double())


def test_classes_in_another_order_are_refused_before_the_training() -> None:
    network = Network(lambda _, x: x)
    images = torch.randint(0, 256, (120, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = network(images / 255).argmax(1)
    assert check_classifier(network, Split(images, labels), NAMES, CPU) == 1
    with pytest.raises(InputError, match=r"on 0\.0% of 60 .* on 100\.0% if its classes are in another order"):
        check_classifier(network, Split(images, (labels + 1) % 4), NAMES, CPU)
