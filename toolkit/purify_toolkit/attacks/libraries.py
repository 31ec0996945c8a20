"""Attacks by other hands: AutoAttack and Square by pyautoattack, HopSkipJump by foolbox.

The libraries take images outside [0, 1] silently, draw from torch's global generator, write to the
parameters' gradients, report suspicious models in a log, and fail where images or gradients are channels_last.
Here images and results are checked, the global generator is put back, only pixels get a gradient, a contiguous one,
and the log's warnings become `AttackWarning`s.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from purify_edge.errors import InputError
from purify_edge.extras import require_library
from purify_toolkit.attacks.base import Attack, AttackWarning, check_images, choose
from purify_toolkit.attacks.norms import L2, LINF, Norm
from purify_toolkit.data.pixels import batch_size as batch_size_of
from purify_toolkit.networks.answers import Model

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
"""Croce and Hein's standard ensemble (2020, arXiv 2003.01690)."""

NAMES = (*STANDARD, "apgd-dlr", "fab")

# The targeted DLR loss divides by a difference that needs four classes, the untargeted one by one that needs three.
SUBSTITUTES = {2: {"apgd-t": "apgd-ce", "apgd-dlr": "apgd-ce"}, 3: {"apgd-t": "apgd-dlr"}}

FALSE_ALARM = "with only 3 classes it is not possible to use the targeted DLR loss!"
"""Printed for the untargeted loss as well; the targeted one is never used there."""


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack, standard settings: each attack in turn on the images that the ones before it left unbroken.

    The model must be differentiable and deterministic; what the library's log says against it becomes an
    `AttackWarning`, each text once. The image itself is returned where the attack failed.
    """

    epsilon: float  # the radius of the ball
    classes: int  # K, two at least; below ten there are fewer targets, below four no targeted DLR loss
    norm: Norm = LINF  # the norm of the ball, or L2
    attacks: tuple[str, ...] = STANDARD  # some of NAMES
    # how many images to attack at once, by their size if not given. The random starts of each batch are the same, so
    # another batch size gives other examples
    batch_size: int | None = None
    needs: ClassVar[str] = "pyautoattack"

    def __post_init__(self) -> None:
        unknown = [name for name in self.attacks if name not in NAMES]
        if unknown or not self.attacks:
            raise InputError(f"no attack {', '.join(unknown) or 'given'}; AutoAttack's are {', '.join(NAMES)}")
        if self.classes < 2:
            raise InputError(f"an attack needs two classes at least, got {self.classes}")

    @property
    def possible(self) -> tuple[str, ...]:
        """The attacks that work for so many classes, each once."""
        substitutes = SUBSTITUTES.get(self.classes, {})
        return tuple(dict.fromkeys(substitutes.get(name, name) for name in self.attacks))

    def __str__(self) -> str:
        return f"AutoAttack ({', '.join(self.possible)}), {self.norm.name} {self.epsilon:g}"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`; an InputError, too, where `classes` does not fit the model."""
        check_images(images)
        if not len(images):
            return images.clone()
        self._check_classes(model, images)
        x, seed = images.detach().contiguous(), _seed(generator, images)
        with _library(seed, x.device):
            ensemble = self._ensemble(_pixel_gradient(model), seed, x.device)
            size = self.batch_size or batch_size_of(x)
            found, _ = ensemble.run_standard_evaluation(x, labels, batch_size=size)
        return _in_ball(found, images, self.epsilon, self.norm)

    def _check_classes(self, model: Model, images: Tensor) -> None:
        with torch.no_grad():
            found = list(model(images[:1]).shape)
        if found != [1, self.classes]:
            raise InputError(f"expected logits [1, {self.classes}] for one image, the model gives {found}")

    def _ensemble(self, model: Model, seed: int, device: torch.device) -> Any:
        """Return the library's ensemble with the standard version's settings."""
        import pyautoattack

        counts = pyautoattack.checks.funcs  # it counts over the whole process what it found in one model
        counts.update(dict.fromkeys(counts, 0))
        ensemble = pyautoattack.AutoAttack(
            model,
            attacks=list(self.possible),
            device=device,
            eps=self.epsilon,
            norm=self.norm.name,
            seed=seed,
            version="custom",
        )
        ensemble.apgd.n_restarts = ensemble.fab.n_restarts = 1
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = min(9, self.classes - 1)
        return ensemble


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """The Square attack alone (Andriushchenko et al. 2020, arXiv 1912.00049); its schedule is scaled to the budget.

    The model is only evaluated: see `numpy_model` for an engine. The image itself is returned where the attack failed.
    """

    epsilon: float  # the radius of the ball
    queries: int = 1000  # how many evaluations of the model an image may cost
    norm: Norm = LINF  # the norm of the ball
    needs: ClassVar[str] = "pyautoattack"

    def __str__(self) -> str:
        return f"Square, {self.norm.name} {self.epsilon:g}, {self.queries} queries"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""
        from pyautoattack.square import SquareAttack

        check_images(images)
        if not len(images):
            return images.clone()
        seed = _seed(generator, images)
        with _library(seed, images.device), torch.no_grad():
            found = SquareAttack(
                model,
                norm=self.norm.name,
                n_queries=self.queries,
                eps=self.epsilon,
                seed=seed,
                device=images.device,
                resc_schedule=True,
            ).perturb(images.contiguous(), labels)
        return _in_ball(found, images, self.epsilon, self.norm)


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack):
    """HopSkipJump, which sees the predicted class only (Chen et al. 2020, arXiv 1904.02144).

    It walks along the boundary towards the image from the nearest of the other images, and of a few of noise,
    that the model puts into another class than the label. The result is the nearest adversarial image found, and the
    image itself where none lies within epsilon, where there was no start or where it is misclassified as it is.
    """

    epsilon: float = float("inf")  # the distance beyond which an example does not count
    queries: int = 1000  # evaluations of the model an image, about: as many steps as they pay for, one at least
    norm: Norm = L2  # the norm whose distance is made small
    evaluations: int = 100  # how many of them the first step's gradient takes; step t takes sqrt(t) times as many
    needs: ClassVar[str] = "foolbox"

    def __str__(self) -> str:
        return f"HopSkipJump, {self.norm.name} {self.epsilon:g}, {self.queries} queries"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`; the model must be deterministic."""
        check_images(images)
        if not len(images):
            return images.clone()
        foolbox = _foolbox()
        attack = foolbox.attacks.HopSkipJumpAttack(
            steps=_steps(self.queries, self.evaluations),
            initial_gradient_eval_steps=self.evaluations,
            constraint=self.norm.name.lower(),
        )
        network = foolbox.PyTorchModel(_Network(model).eval(), bounds=(0, 1), device=images.device)
        best = images.detach().clone()
        with _library(_seed(generator, images), images.device), torch.no_grad():
            starts, usable = _starts(model, images, labels)
            for part in usable.nonzero().squeeze(1).split(max(1, batch_size_of(images) // 10)):
                if not len(part):  # none is usable: foolbox takes no empty batch
                    continue
                best[part] = attack.run(network, images[part], labels[part], starting_points=starts[part])
        near = self.norm.size(best - images) <= self.epsilon
        return _in_ball(choose(near, best, images), images, self.epsilon, self.norm)


def _seed(generator: torch.Generator, images: Tensor) -> int:
    """Draw a number for a library that wants one."""
    return int(torch.randint(2**31, (1,), generator=generator, device=images.device))


class _Network(nn.Module):
    """A model as foolbox wants it; in a tuple, so that it is neither moved nor switched to another mode."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = (model,)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map `[N, C, H, W] -> [N, K]`."""
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
    """Return the model as `_PixelGradient`; it is evaluated without one where no gradient is needed."""

    def call(images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            logits: Tensor = _PixelGradient.apply(images, model)
            return logits
        with torch.no_grad():
            return model(images)

    return call


class _Objections(logging.Handler):
    """Turns what pyautoattack logs into warnings, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = {FALSE_ALARM}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._told:
            self._told.add(text)
            warnings.warn(text, AttackWarning, stacklevel=2)


@contextmanager
def _library(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator and put it back; turn what pyautoattack logs into warnings."""
    logger, handler = logging.getLogger("auto-attack"), _Objections()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _in_ball(found: Tensor, images: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """Return the library's images, after a check that they are as requested."""
    check_images(found)
    size = norm.size(found - images)
    if len(size) and float(size.max()) > epsilon * (1 + 1e-4) + 1e-6:
        raise RuntimeError(
            f"a library's example lies {float(size.max()):g} from its image ({norm.name}), not {epsilon:g}"
        )
    return found.detach()


def _starts(model: Model, images: Tensor, labels: Tensor, noises: int = 20) -> tuple[Tensor, Tensor]:
    """Return for each image the nearest of another predicted class, and whether one is needed and there, `[N]`."""
    noise = torch.rand(noises, *images.shape[1:], device=images.device)
    pool = torch.cat([images, noise])
    predicted = torch.cat([model(part).argmax(1) for part in pool.split(batch_size_of(images))])
    distance = torch.cdist(images.flatten(1), pool.flatten(1))
    distance = distance.masked_fill(predicted[None, :] == labels[:, None], float("inf"))
    nearest, index = distance.min(1)
    return pool[index], nearest.isfinite() & (predicted[: len(images)] == labels)


def _steps(queries: int, evaluations: int, search: int = 30) -> int:
    """Return how many of HopSkipJump's steps so many queries pay for; each also searches for the boundary."""
    steps, spent = 0, 0.0
    while steps == 0 or spent + evaluations * math.sqrt(steps + 1) + search <= queries:
        steps += 1
        spent += evaluations * math.sqrt(steps) + search
    return steps


def _foolbox() -> Any:
    return require_library("foolbox", "attacks")  # its GitPython fails too where there is no git
