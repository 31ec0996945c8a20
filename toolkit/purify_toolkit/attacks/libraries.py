"""Attacks by other hands: AutoAttack and Square by pyautoattack, HopSkipJump by foolbox.

The libraries take images outside [0, 1] without a word, draw from torch's global generator, write to the
parameters' gradients, tell of suspicious models in a log, and fail where images or gradients are channels_last.
Here images and results are checked, the global generator is put back, only pixels get a gradient, a contiguous one,
and the log's warnings are part of the result.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from purify_edge.errors import InputError, MissingError, reason
from purify_toolkit.attacks.base import check_images
from purify_toolkit.attacks.norms import L2, LINF, Norm
from purify_toolkit.data.pixels import batch_size as batch_size_of
from purify_toolkit.networks.answers import Model

AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
"""Croce and Hein's standard ensemble (2020, arXiv 2003.01690)."""

NAMES = (*AUTOATTACK, "apgd-dlr", "fab")

# The targeted DLR loss divides by a difference that needs four classes, the untargeted one by one that needs three.
SUBSTITUTES = {2: {"apgd-t": "apgd-ce", "apgd-dlr": "apgd-ce"}, 3: {"apgd-t": "apgd-dlr"}}

FALSE_ALARM = "with only 3 classes it is not possible to use the targeted DLR loss!"
"""Said of the untargeted one as well; the targeted one is never asked for there."""


@dataclass(frozen=True)
class LibraryResult:
    """What an attack of a library found.

    Attributes:
        adversarial: `[N, C, H, W]`; the image itself where the attack failed.
        warnings: what the library's log said of the model, each once.
        attacks: the names of those that ran: with two or three classes some stand in for others.
    """

    adversarial: Tensor
    warnings: tuple[str, ...]
    attacks: tuple[str, ...]


def autoattack(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = LINF,
    classes: int,
    seed: int,
    attacks: Sequence[str] = AUTOATTACK,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
) -> LibraryResult:
    """AutoAttack, standard settings: each attack in turn on the images that the ones before it left unbroken.

    Args:
        model: pixels `[N, C, H, W]` -> logits `[N, K]`, differentiable, deterministic.
        images: `[N, C, H, W]` in [0, 1].
        labels: `[N]`, the true classes.
        epsilon: radius of the ball.
        norm: of the ball.
        classes: K, two at least; below ten there are fewer targets, below four no targeted DLR loss.
        seed: of each attack's random start, each batch anew: another batch size gives other examples.
        attacks: of NAMES.
        device: where the attacks run; the images' if not given.
        batch_size: images at once; by their size if not given.

    Raises:
        InputError: an image lies outside [0, 1], an attack is unknown, `classes` does not fit the model.
        ModuleNotFoundError: pyautoattack is not installed; it comes with the extra 'train'.
    """
    check_images(images)
    names = _valid(attacks, classes)
    place = torch.device(device or images.device)
    x, y = images.detach().to(place).contiguous(), labels.to(place)
    if not len(x):
        return LibraryResult(images, (), names)
    _check_classes(model, x, classes)
    with _library(seed, place) as warnings:
        found, _ = _ensemble(
            _pixel_gradient(model), names, epsilon, norm, classes, seed, place
        ).run_standard_evaluation(x, y, batch_size=batch_size or batch_size_of(x))
    return LibraryResult(
        _in_ball(found.to(images.device), images, epsilon, norm), tuple(dict.fromkeys(warnings)), names
    )


def square(
    model: Model, images: Tensor, labels: Tensor, *, epsilon: float, norm: Norm = LINF, queries: int, seed: int
) -> Tensor:
    """The Square attack alone (Andriushchenko et al. 2020, arXiv 1912.00049); its schedule is scaled to the budget.

    Args:
        model: pixels `[N, C, H, W]` -> logits `[N, K]`; only evaluated: see `numpy_model` for an engine.
        images: `[N, C, H, W]` in [0, 1].
        labels: `[N]`, the true classes.
        epsilon: radius of the ball.
        norm: of the ball.
        queries: evaluations of the model an image at most.
        seed: of the search.

    Returns:
        `[N, C, H, W]`, the image itself where the attack failed.

    Raises:
        InputError: an image lies outside [0, 1].
        ModuleNotFoundError: pyautoattack is not installed; it comes with the extra 'train'.
    """
    from pyautoattack.square import SquareAttack

    check_images(images)
    if not len(images):
        return images.clone()
    with _library(seed, images.device), torch.no_grad():
        found = SquareAttack(
            model,
            norm=norm.name,
            n_queries=queries,
            eps=epsilon,
            seed=seed,
            device=images.device,
            resc_schedule=True,
        ).perturb(images.contiguous(), labels)
    return _in_ball(found, images, epsilon, norm)


def hop_skip_jump(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = L2,
    queries: int,
    evaluations: int = 100,
    seed: int,
) -> Tensor:
    """HopSkipJump, which sees the predicted class only (Chen et al. 2020, arXiv 1904.02144).

    It walks along the boundary towards the image from the nearest of the other images, and of a few of noise,
    that the model puts into another class than the label.

    Args:
        model: pixels `[N, C, H, W]` -> logits `[N, K]`; only its largest logit counts; deterministic.
        images: `[N, C, H, W]` in [0, 1].
        labels: `[N]`, the true classes.
        norm: whose distance is made small.
        queries: evaluations of the model an image, about: as many steps as they pay for, one at least.
        evaluations: of them for the first step's gradient; step t takes sqrt(t) times as many.
        seed: of the walk.

    Returns:
        The nearest adversarial images found, `[N, C, H, W]`, however far; the image itself where there was no
        start or where it is misclassified as it is.

    Raises:
        InputError: an image lies outside [0, 1].
        MissingError: foolbox is not installed.
    """
    check_images(images)
    foolbox = _foolbox()
    attack = foolbox.attacks.HopSkipJumpAttack(
        steps=_steps(queries, evaluations), initial_gradient_eval_steps=evaluations, constraint=norm.name.lower()
    )
    network = foolbox.PyTorchModel(_Network(model).eval(), bounds=(0, 1), device=images.device)
    best = images.detach().clone()
    with _library(seed, images.device), torch.no_grad():
        starts, usable = _starts(model, images, labels)
        for part in usable.nonzero().squeeze(1).split(max(1, batch_size_of(images) // 10)):
            if not len(part):  # none is usable: foolbox takes no empty batch
                continue
            best[part] = attack.run(network, images[part], labels[part], starting_points=starts[part])
    return _in_ball(best, images, float("inf"), norm)


class _Network(nn.Module):
    """A model as foolbox wants it; in a tuple, so that it is neither moved nor switched to another mode."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = (model,)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`[N, C, H, W] -> [N, K]`."""
        return self._model[0](x_NCHW)


class _PixelGradient(torch.autograd.Function):
    """The model with a backward pass that ends at the pixels: parameters get no gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: Model) -> Tensor:
        with torch.enable_grad():
            ctx.pixels = images.detach().requires_grad_(True)
            ctx.logits = model(ctx.pixels)
        logits: Tensor = ctx.logits.detach()
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Kept, since FAB goes back through the same evaluation once a class.
        return torch.autograd.grad(ctx.logits, ctx.pixels, gradient, retain_graph=True)[0].contiguous(), None


def _pixel_gradient(model: Model) -> Model:
    """See `_PixelGradient`; plain evaluation where no gradient is asked for."""

    def call(images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            logits: Tensor = _PixelGradient.apply(images, model)
            return logits
        with torch.no_grad():
            return model(images)

    return call


def _valid(attacks: Sequence[str], classes: int) -> tuple[str, ...]:
    """The attacks that work for so many classes, each once."""
    unknown = [name for name in attacks if name not in NAMES]
    if unknown or not attacks:
        raise InputError(f"no attack {', '.join(unknown) or 'given'}; AutoAttack's are {', '.join(NAMES)}")
    if classes < 2:
        raise InputError(f"an attack needs two classes at least, got {classes}")
    substitutes = SUBSTITUTES.get(classes, {})
    return tuple(dict.fromkeys(substitutes.get(name, name) for name in attacks))


def _check_classes(model: Model, images: Tensor, classes: int) -> None:
    with torch.no_grad():
        logits = model(images[:1])
    if tuple(logits.shape) != (1, classes):
        raise InputError(f"expected logits [1, {classes}] for one image, the model gives {list(logits.shape)}")


def _ensemble(
    model: Model, names: Sequence[str], epsilon: float, norm: Norm, classes: int, seed: int, device: torch.device
) -> Any:
    """The ensemble with the standard version's settings."""
    from pyautoattack import AutoAttack, checks

    checks.funcs.update(dict.fromkeys(checks.funcs, 0))  # it counts over the whole process what it found in one model
    ensemble = AutoAttack(
        model, attacks=list(names), device=device, eps=epsilon, norm=norm.name, seed=seed, version="custom"
    )
    ensemble.apgd.n_restarts = ensemble.fab.n_restarts = 1
    ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = min(9, classes - 1)
    return ensemble


class _Warnings(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() != FALSE_ALARM:
            self._messages.append(record.getMessage())


@contextmanager
def _library(seed: int, device: torch.device) -> Iterator[list[str]]:
    """Seed torch's global generator and put it back; collect what pyautoattack logs as warnings."""
    messages: list[str] = []
    logger, handler = logging.getLogger("auto-attack"), _Warnings(messages)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _in_ball(found: Tensor, images: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The library's images, after a look at whether they are what was asked for."""
    check_images(found)
    size = norm.size(found - images)
    if len(size) and float(size.max()) > epsilon * (1 + 1e-4) + 1e-6:
        raise RuntimeError(
            f"a library's example lies {float(size.max()):g} from its image ({norm.name}), not {epsilon:g}"
        )
    return found.detach()


def _starts(model: Model, images: Tensor, labels: Tensor, noises: int = 20) -> tuple[Tensor, Tensor]:
    """For each image the nearest of another predicted class, and where one is needed and there, `[N]`."""
    noise = torch.rand(noises, *images.shape[1:], device=images.device)
    pool = torch.cat([images, noise])
    predicted = torch.cat([model(part).argmax(1) for part in pool.split(batch_size_of(images))])
    distance = torch.cdist(images.flatten(1), pool.flatten(1))
    distance = distance.masked_fill(predicted[None, :] == labels[:, None], float("inf"))
    nearest, index = distance.min(1)
    return pool[index], nearest.isfinite() & (predicted[: len(images)] == labels)


def _steps(queries: int, evaluations: int, search: int = 30) -> int:
    """How many of HopSkipJump's steps so many queries pay for; each also searches for the boundary."""
    steps, spent = 0, 0.0
    while steps == 0 or spent + evaluations * math.sqrt(steps + 1) + search <= queries:
        steps += 1
        spent += evaluations * math.sqrt(steps) + search
    return steps


def _foolbox() -> Any:
    try:
        import foolbox
    except ImportError as error:  # its GitPython raises one too where there is no git
        raise MissingError(f"needs 'attacks': pip install 'purify-edge[attacks]' ({reason(error)})") from error
    return foolbox
