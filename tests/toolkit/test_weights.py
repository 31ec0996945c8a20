import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from helpers.user_models import Tiny, Viewing, Wrapping
from purify_edge.errors import InputError
from purify_toolkit.networks.weights import read_weights


def prefixed(prefix: str, network: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in network.state_dict().items()}


class Module(nn.Module):
    """A Lightning module: the network, the loss with a buffer, a metric."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net, self.loss = network, nn.CrossEntropyLoss(torch.ones(10))


def half_compiled(network: Tiny) -> nn.Module:
    network.body = torch.compile(network.body)  # type: ignore[assignment]
    return network


CHECKPOINTS: dict[str, Callable[[Tiny], Any]] = {
    "torch.compile": lambda network: torch.compile(network).state_dict(),
    "a part compiled": lambda network: half_compiled(network).state_dict(),
    "compile and DataParallel": lambda network: nn.DataParallel(torch.compile(network)).state_dict(),
    "Lightning": lambda network: {"epoch": 3, "loops": {"fit": {}}, "state_dict": Module(network).state_dict()},
    "an average": lambda network: AveragedModel(network).state_dict(),
    "a name of one's own": lambda network: {"mine": {"best": network.state_dict()}, "optimizer": {"state": {0: {}}}},
    "beside others": lambda network: network.state_dict() | {"epoch": 7, "name": "tiny"},
    "the same twice": lambda network: {"model": network.state_dict(), "params": prefixed("module.", network)},
    "of an old PyTorch": lambda network: {k: v for k, v in network.state_dict().items() if "num_batches" not in k},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_weights_are_found_in_a_checkpoint(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(3)
    network, other = Tiny(), Tiny()
    expected = {key: value.clone() for key, value in network.state_dict().items()}
    torch.save(CHECKPOINTS[kind](network), tmp_path / "mine.pt")
    read_weights(other, tmp_path / "mine.pt")
    torch.testing.assert_close(dict(other.state_dict()), expected)


def test_a_wrapped_network_takes_bare_weights(tmp_path: Path) -> None:
    network, other = Tiny(), nn.DataParallel(half_compiled(Tiny()))
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    read_weights(other, tmp_path / "mine.pt")
    assert torch.equal(other.module.head[2].weight, network.head[2].weight)


def test_of_several_that_fit_none_is_guessed(tmp_path: Path) -> None:
    torch.save({"params": Tiny().state_dict(), "params_ema": Tiny().state_dict()}, tmp_path / "mine.pt")
    with pytest.raises(InputError, match=r"several state dicts that fit .*, \['params'\], \['params_ema'\]"):
        read_weights(Tiny(), tmp_path / "mine.pt")
    torch.save(prefixed("model.", Tiny()) | prefixed("ema.", Tiny()), tmp_path / "mine.pt")
    with pytest.raises(InputError, match=r"several state dicts that fit the classifier, ema\., model\."):
        read_weights(Tiny(), tmp_path / "mine.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (prefixed("module.", nn.Linear(3, 2)), "missing are body.0.weight, body.0.bias, body.1.weight and 8 more; not"),
        (
            Tiny().state_dict() | {"head.2.bias": torch.zeros(7)},
            r"of another shape are head\.2\.bias \[7\] for \[10\]$",
        ),
        ({"epoch": 3, "lr": 0.1, "best": 1, "name": "a", "loss": 2}, "but a dict of 'epoch', 'lr', 'best' and 2 more;"),
        ([1, 2], "no state dict but a list; save it by"),
    ],
)
def test_what_does_not_fit_is_told_by_its_names(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(InputError, match=message):
        read_weights(Tiny(), tmp_path / "mine.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["module", "in a dict", "numpy", "options", "TorchScript"])
def test_code_in_a_file_is_not_run_and_the_lines_that_save_a_clean_one_work(tmp_path: Path, kind: str) -> None:
    path, network = tmp_path / "mine.pt", Tiny()
    if kind == "TorchScript":
        torch.jit.script(network).save(str(path))
    else:
        state = network.state_dict()
        content = {
            "module": network,
            "in a dict": {"state_dict": network},
            "numpy": {"state_dict": state, "accuracy": np.float64(0.9)},
            "options": {"state_dict": state, "args": argparse.Namespace(epochs=3)},
        }
        torch.save(content[kind], path)
    with pytest.raises(InputError, match=r"holds more than weights \(\S+\), and its code is not run here") as caught:
        read_weights(Tiny(), path)
    text = str(caught.value)
    assert "\x1b" not in text
    assert len(text.splitlines()) == 4
    if kind in ("module", "TorchScript"):
        lines = "\n".join(line.strip() for line in text.splitlines()[1:]).replace("weights.pt", str(tmp_path / "w.pt"))
        exec(lines, {})
        read_weights(other := Tiny(), tmp_path / "w.pt")
        torch.testing.assert_close(dict(other.state_dict()), dict(network.state_dict()))


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    network, other = Tiny(), Tiny()
    save_file(network.state_dict(), tmp_path / "mine.bin")
    read_weights(other, tmp_path / "mine.bin")
    assert torch.equal(other.head[2].weight, network.head[2].weight)


@pytest.mark.parametrize(
    "content", ["missing", "empty", "text", "half a text", "a page", "pickle", "another network", "no state dict"]
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.pt"
    texts = {"empty": b"", "text": b"weights", "half a text": b"the weights", "a page": b"<!DOCTYPE html>"}
    if content in texts:
        path.write_bytes(texts[content])
    elif content == "pickle":
        torch.save({"network": Tiny()}, path)  # a whole module: loading it would run its code
    elif content == "another network":
        torch.save({"fc.weight": torch.zeros(3)}, path)
    elif content == "no state dict":
        torch.save([1, 2, 3], path)
    with pytest.raises(InputError, match=r"mine\.pt") as caught:
        read_weights(Tiny(), path)
    assert "arbitrary code execution" not in str(caught.value)


@pytest.mark.parametrize("kind", [Viewing, Wrapping])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_part_called_module_keeps_its_name(tmp_path: Path, kind: type[Viewing] | type[Wrapping], prefix: str) -> None:
    network, other = kind(), kind()
    torch.save({prefix + key: value for key, value in network.state_dict().items()}, tmp_path / "mine.pt")
    read_weights(other, tmp_path / "mine.pt")
    assert torch.equal(other.module.weight, network.module.weight)
