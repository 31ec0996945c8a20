"""The attacks an evaluation can run, by name: how each is called, and what its row says of size, steps, restarts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from purify_toolkit.attacks.base import choose
from purify_toolkit.attacks.carlini_wagner import carlini_wagner_l2
from purify_toolkit.attacks.corruptions import CORRUPTIONS
from purify_toolkit.attacks.gradient import cross_entropy, fgsm, margin, pgd
from purify_toolkit.attacks.libraries import AUTOATTACK, SUBSTITUTES, autoattack, hop_skip_jump, square
from purify_toolkit.attacks.norms import L2, LINF, Norm
from purify_toolkit.attacks.search import gaussian_noise, random_search, uniform_noise
from purify_toolkit.attacks.spatial import rotate_translate
from purify_toolkit.networks.answers import Model
from purify_toolkit.recipe import EvaluationTable

Size = tuple[str, float]
"""A norm's name and the radius of its ball; rows are compared with those of the same size only."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How strong the attacks are. The first three are the recipe's; the rest have the defaults of their sources.

    Attributes:
        epsilon: Linf radius, in pixel units like all sizes here.
        steps, relative_step: of PGD; a step's length is a fraction of the radius.
        decay_steps: of `pgd-decay`, whose first step is as long as the radius; as many as APGD's (arXiv 2003.01690).
        l2_epsilon: L2 radius.
        classes: K, which AutoAttack's choice of losses depends on.
        restarts: of `pgd-restarts`, each with a random start of its own.
        samples: evaluations that `pgd-eot` averages a gradient over.
        cw_steps, cw_searches, cw_rate, cw_c: of Carlini and Wagner's attack: steps, values of c tried for
            an image, Adam's learning rate, the first c.
        queries: of random search, Square and HopSkipJump, an image.
        degrees, shift, tries: of rotation and translation; the shift is a fraction of the image's side.
        severity: of the corruptions, 1 to 5.
    """

    epsilon: float
    steps: int
    relative_step: float
    l2_epsilon: float
    classes: int
    decay_steps: int = 100
    restarts: int = 5
    samples: int = 10
    cw_steps: int = 100
    cw_searches: int = 6
    cw_rate: float = 0.05
    cw_c: float = 1.0
    queries: int = 1000
    degrees: float = 30.0
    shift: float = 0.1
    tries: int = 10
    severity: int = 3

    @property
    def step(self) -> str:
        """The length of a step in the Linf ball, for a row."""
        return f"step {self.relative_step * self.epsilon:g}"


L2_EPSILONS: dict[tuple[int, ...], float] = {(1, 28, 28): 1.5}
"""L2 radii in use for images of a shape; 0.5, RobustBench's for CIFAR-10 (arXiv 2010.09670), for all others."""


def default_settings(
    table: EvaluationTable, image_shape: tuple[int, ...], classes: int, *, l2_epsilon: float | None
) -> Settings:
    """The settings for a recipe's attack, images `[C, H, W]`, K, and an L2 radius or None for the usual one."""
    return Settings(
        epsilon=table.epsilon,
        steps=table.steps,
        relative_step=table.relative_step,
        l2_epsilon=L2_EPSILONS.get(image_shape, 0.5) if l2_epsilon is None else l2_epsilon,
        classes=classes,
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """A batch to attack: the model, the images `[B, C, H, W]` and labels `[B]`, the settings, a generator."""

    model: Model
    images: Tensor
    labels: Tensor
    settings: Settings
    generator: torch.Generator

    def seed(self) -> int:
        """A seed drawn from the generator, for a library that wants a number."""
        return int(torch.randint(2**31, (1,), generator=self.generator, device=self.images.device))


@dataclass(frozen=True)
class Made:
    """Attacked images `[B, C, H, W]`, and what the attack's library warned of."""

    images: Tensor
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Method:
    """One attack.

    Attributes:
        make: attacks a batch.
        describe: norm, size, steps, restarts: all that the result depends on besides model, images and seed.
        size: of the ball that holds its images; None where there is none.
        costly: by default on the first images of the test part only.
        needs: the library that it calls.
    """

    make: Callable[[Case], Made]
    describe: Callable[[Settings], str]
    size: Callable[[Settings], Size | None] = field(default=lambda settings: None)
    costly: bool = False
    needs: str | None = None


def linf(settings: Settings) -> Size:
    """The Linf ball of the settings."""
    return LINF.name, settings.epsilon


def l2(settings: Settings) -> Size:
    """The L2 ball of the settings."""
    return L2.name, settings.l2_epsilon


def _unchanged(case: Case) -> Made:
    return Made(case.images)


def _fgsm(case: Case) -> Made:
    return Made(fgsm(case.model, case.images, case.labels, epsilon=case.settings.epsilon))


def _pgd(
    case: Case,
    *,
    norm: Norm = LINF,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    restarts: int = 1,
    samples: int = 1,
) -> Made:
    settings = case.settings
    return Made(
        pgd(
            case.model,
            case.images,
            case.labels,
            epsilon=settings.epsilon if norm is LINF else settings.l2_epsilon,
            steps=settings.steps,
            relative_step=settings.relative_step,
            generator=case.generator,
            norm=norm,
            loss=loss,
            restarts=restarts,
            samples=samples,
        )
    )


def _restarts(case: Case) -> Made:
    return _pgd(case, restarts=case.settings.restarts)


def _eot(case: Case) -> Made:
    return _pgd(case, samples=case.settings.samples)


def _decay(case: Case) -> Made:
    return Made(
        pgd(
            case.model,
            case.images,
            case.labels,
            epsilon=case.settings.epsilon,
            steps=case.settings.decay_steps,
            relative_step=1.0,
            generator=case.generator,
            decay=True,
        )
    )


def _carlini_wagner(case: Case) -> Made:
    """The attack looks for the nearest example; one beyond the stated radius does not count."""
    settings = case.settings
    found = carlini_wagner_l2(
        case.model,
        case.images,
        case.labels,
        steps=settings.cw_steps,
        binary_steps=settings.cw_searches,
        learning_rate=settings.cw_rate,
        initial_c=settings.cw_c,
    )
    near = L2.size(found - case.images) <= settings.l2_epsilon
    return Made(choose(near, found, case.images))


def _autoattack(case: Case) -> Made:
    result = autoattack(
        case.model,
        case.images,
        case.labels,
        epsilon=case.settings.epsilon,
        norm=LINF,
        classes=case.settings.classes,
        seed=case.seed(),
        device=case.images.device,
        batch_size=len(case.images),
    )
    return Made(result.adversarial, result.warnings)


def _uniform(case: Case) -> Made:
    return Made(uniform_noise(case.images, epsilon=case.settings.epsilon, generator=case.generator))


def _gaussian(case: Case) -> Made:
    return Made(gaussian_noise(case.images, std=case.settings.epsilon, generator=case.generator))


def _corrupt(case: Case, name: str) -> Made:
    return Made(CORRUPTIONS[name](case.images, case.settings.severity, case.generator))


def _spatial(case: Case) -> Made:
    settings = case.settings
    return Made(
        rotate_translate(
            case.model,
            case.images,
            case.labels,
            max_degrees=settings.degrees,
            max_shift=settings.shift,
            tries=settings.tries,
            generator=case.generator,
        )
    )


def _random_search(case: Case) -> Made:
    settings = case.settings
    return Made(
        random_search(
            case.model,
            case.images,
            case.labels,
            epsilon=settings.epsilon,
            queries=settings.queries,
            generator=case.generator,
        )
    )


def _square(case: Case) -> Made:
    settings = case.settings
    return Made(
        square(
            case.model,
            case.images,
            case.labels,
            epsilon=settings.epsilon,
            queries=settings.queries,
            seed=case.seed(),
        )
    )


def _hop_skip_jump(case: Case) -> Made:
    """As with Carlini and Wagner: what lies beyond the stated radius does not count."""
    settings = case.settings
    found = hop_skip_jump(case.model, case.images, case.labels, queries=settings.queries, seed=case.seed())
    near = L2.size(found - case.images) <= settings.l2_epsilon
    return Made(choose(near, found, case.images))


def _say_pgd(settings: Settings, more: str = "1 random start", kind: str = "PGD") -> str:
    return f"{kind}-{settings.steps}, Linf {settings.epsilon:g}, {settings.step}, {more}"


def _say_decay(settings: Settings) -> str:
    kind, epsilon = f"PGD-{settings.decay_steps}", f"{settings.epsilon:g}"
    return f"{kind}, Linf {epsilon}, steps shrinking from {epsilon} to 0, 1 random start"


def _say_pgd_l2(settings: Settings) -> str:
    step = settings.relative_step * settings.l2_epsilon
    return f"PGD-{settings.steps}, L2 {settings.l2_epsilon:g}, step {step:g}, 1 random start"


def _say_cw(settings: Settings) -> str:
    return (
        f"Carlini-Wagner, L2 {settings.l2_epsilon:g}, {settings.cw_steps} steps, "
        f"{settings.cw_searches} values of c from {settings.cw_c:g}, rate {settings.cw_rate:g}"
    )


def _say_corruption(settings: Settings, name: str) -> str:
    return f"{name.replace('_', ' ')}, severity {settings.severity} of 5"


def _say_autoattack(settings: Settings) -> str:
    """Below four classes other losses stand in for some."""
    instead = SUBSTITUTES.get(settings.classes, {})
    names = dict.fromkeys(instead.get(name, name) for name in AUTOATTACK)
    return f"AutoAttack ({', '.join(names)}), Linf {settings.epsilon:g}"


METHODS: dict[str, Method] = {
    "none": Method(make=_unchanged, describe=lambda s: "none"),
    "uniform": Method(make=_uniform, describe=lambda s: f"uniform noise, Linf {s.epsilon:g}", size=linf),
    "gaussian": Method(make=_gaussian, describe=lambda s: f"Gaussian noise, standard deviation {s.epsilon:g}"),
    "rotate-translate": Method(
        make=_spatial,
        describe=lambda s: (
            f"rotation to {s.degrees:g} degrees and shift to {s.shift:g} of the side, worst of {s.tries} random tries"
        ),
    ),
    "fgsm": Method(make=_fgsm, describe=lambda s: f"FGSM, Linf {s.epsilon:g}, 1 step, no random start", size=linf),
    "pgd": Method(make=_pgd, describe=_say_pgd, size=linf),
    "pgd-restarts": Method(make=_restarts, describe=lambda s: _say_pgd(s, f"{s.restarts} random starts"), size=linf),
    "pgd-margin": Method(
        make=partial(_pgd, loss=margin), describe=partial(_say_pgd, kind="margin-loss PGD"), size=linf
    ),
    "pgd-decay": Method(make=_decay, describe=_say_decay, size=linf, costly=True),
    "pgd-eot": Method(
        make=_eot,
        describe=lambda s: _say_pgd(s, f"1 random start, mean gradient of {s.samples} evaluations"),
        size=linf,
        costly=True,
    ),
    "autoattack": Method(
        make=_autoattack,
        describe=_say_autoattack,
        size=linf,
        costly=True,
        needs="pyautoattack",
    ),
    "pgd-l2": Method(make=partial(_pgd, norm=L2), describe=_say_pgd_l2, size=l2),
    "cw-l2": Method(make=_carlini_wagner, describe=_say_cw, size=l2, costly=True),
    "random-search": Method(
        make=_random_search,
        describe=lambda s: f"random search, Linf {s.epsilon:g}, {s.queries} queries",
        size=linf,
        costly=True,
    ),
    "square": Method(
        make=_square,
        describe=lambda s: f"Square, Linf {s.epsilon:g}, {s.queries} queries",
        size=linf,
        costly=True,
        needs="pyautoattack",
    ),
    "hop-skip-jump": Method(
        make=_hop_skip_jump,
        describe=lambda s: f"HopSkipJump, L2 {s.l2_epsilon:g}, {s.queries} queries",
        size=l2,
        costly=True,
        needs="foolbox",
    ),
}
METHODS |= {
    name.replace("_", "-"): Method(make=partial(_corrupt, name=name), describe=partial(_say_corruption, name=name))
    for name in CORRUPTIONS
}
