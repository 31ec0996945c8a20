"""The rows of an evaluation: which threats there are, and which attacks each has."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from purify_edge.bundle.manifest import SpareEntry
from purify_edge.errors import InputError
from purify_toolkit.attacks.base import Attack
from purify_toolkit.attacks.bpda import identity_backward
from purify_toolkit.attacks.carlini_wagner import CarliniWagner
from purify_toolkit.attacks.corruptions import CORRUPTIONS, Corruption, Printed
from purify_toolkit.attacks.gradient import FGSM, PGD, margin
from purify_toolkit.attacks.libraries import AutoAttack, HopSkipJump, Square
from purify_toolkit.attacks.norms import L1, L2
from purify_toolkit.attacks.search import GaussianNoise, NoAttack, RandomSearch, UniformNoise
from purify_toolkit.attacks.spatial import RotateTranslate
from purify_toolkit.attacks.unseen import Colours, Patch, Universal
from purify_toolkit.networks.answers import Model
from purify_toolkit.recipe import EvaluationTable

Against = Literal["nothing", "classifier", "pipeline", "approximation", "other pipeline"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The networks to evaluate: in evaluation mode, on one device."""

    classifier: nn.Module  # pixels -> logits
    purifier: nn.Module  # pixels -> pixels
    other: nn.Module | None = None  # purifier and classifier of another training, for `transfer`
    spare: SpareEntry | None = None  # the rule that is judged too; no attack knows it

    @property
    def pipeline(self) -> nn.Sequential:
        """Purifier, then classifier."""
        return nn.Sequential(self.purifier, self.classifier)

    def target(self, against: Against) -> Model:
        """Return the model that an attack is made against."""
        targets: dict[str, Callable[[], nn.Module | None]] = {
            "nothing": lambda: self.pipeline,  # which no such attack asks
            "classifier": lambda: self.classifier,
            "pipeline": lambda: self.pipeline,
            "approximation": lambda: nn.Sequential(identity_backward(self.purifier), self.classifier),
            "other pipeline": lambda: self.other,
        }
        model = targets[against]()
        if model is None:
            raise InputError("a transfer attack needs another run to make its examples on: --transfer-from RUN")
        return model


@dataclass(frozen=True)
class Threat:
    """One threat model."""

    against: Against  # what the attacker computes with: its logits, and their gradient where the attack takes one
    about: str  # a phrase that says what the attacker knows
    undefended: bool = True  # whether the classifier alone is shown the same images, as another row


BARELY = "barely:pgd-until-wrong"
BPDA = "white-box, with the identity for the purifier's gradient (arXiv 1802.00420)"
THREATS: dict[str, Threat] = {
    "clean": Threat("nothing", "unchanged images"),
    "noise": Threat("nothing", "random noise, nobody attacks"),
    "corruptions": Threat("nothing", "common corruptions (arXiv 1903.12261), nobody attacks"),
    "spatial": Threat("pipeline", "the worst of random rotations and shifts (arXiv 1712.02779)", undefended=False),
    "colour": Threat("pipeline", "the worst of random changes of colour and light", undefended=False),
    "grey-box": Threat("classifier", "the attacker knows the classifier only"),
    "barely": Threat("classifier", "grey-box, and the attack stops as soon as the classifier errs"),
    "printed": Threat("classifier", "grey-box, and the images come through a print and a camera"),
    "transfer": Threat("other pipeline", "white-box examples of an independently trained purifier and classifier"),
    "query": Threat("pipeline", "the attacker sees the pipeline's answers, no gradients", undefended=False),
    "white-box": Threat("pipeline", "the attacker differentiates through purifier and classifier", undefended=False),
    "bpda": Threat("approximation", BPDA, undefended=False),
}

L2_EPSILONS: dict[tuple[int, ...], float] = {(1, 28, 28): 1.5}
"""L2 radii in use for images of a shape; 0.5, RobustBench's for CIFAR-10 (arXiv 2010.09670), for all others."""

L1_EPSILONS: dict[tuple[int, ...], float] = {(1, 28, 28): 10.0}
"""L1 radii in use (arXiv 1904.13000); 12, usual for CIFAR-10 (arXiv 2103.01208), for all others."""


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strong the attacks of an evaluation are; their other settings have the defaults of their sources."""

    epsilon: float  # the Linf radius, in pixel units like all sizes here
    steps: int  # the steps of PGD
    relative_step: float  # the length of a step of PGD, as a fraction of the radius
    l2_epsilon: float  # the L2 radius
    l1_epsilon: float  # the L1 radius
    classes: int  # K, which AutoAttack's choice of losses depends on

    @classmethod
    def of(
        cls,
        table: EvaluationTable,
        image_shape: tuple[int, ...],
        classes: int,
        *,
        l2_epsilon: float | None,
        l1_epsilon: float | None,
    ) -> "Strength":
        """Return that of a recipe's attack, for images `[C, H, W]`, K, and radii or None for the usual ones."""
        return cls(
            epsilon=table.epsilon,
            steps=table.steps,
            relative_step=table.relative_step,
            l2_epsilon=L2_EPSILONS.get(image_shape, 0.5) if l2_epsilon is None else l2_epsilon,
            l1_epsilon=L1_EPSILONS.get(image_shape, 12.0) if l1_epsilon is None else l1_epsilon,
            classes=classes,
        )

    @property
    def pgd(self) -> PGD:
        """The attack that most others vary."""
        return PGD(epsilon=self.epsilon, steps=self.steps, relative_step=self.relative_step)


@dataclass(frozen=True)
class AttackEntry:
    """An attack that an evaluation can run."""

    make: Callable[[Strength], Attack]  # builds the attack, as strong as requested
    threats: tuple[str, ...]  # under which it runs
    costly: bool = False  # whether it is run on the first images of the test part only, by default


BOXES = ("grey-box", "white-box")
GRADIENT = ("grey-box", "transfer", "white-box")

ATTACKS: dict[str, AttackEntry] = {
    "none": AttackEntry(lambda s: NoAttack(), ("clean", "printed")),
    "uniform": AttackEntry(lambda s: UniformNoise(epsilon=s.epsilon), ("noise",)),
    "gaussian": AttackEntry(lambda s: GaussianNoise(std=s.epsilon), ("noise",)),
    "rotate-translate": AttackEntry(lambda s: RotateTranslate(), ("spatial",)),
    "colours": AttackEntry(lambda s: Colours(), ("colour",)),
    "fgsm": AttackEntry(lambda s: FGSM(epsilon=s.epsilon), GRADIENT),
    "pgd": AttackEntry(lambda s: s.pgd, (*GRADIENT, "bpda", "printed")),
    "pgd-restarts": AttackEntry(lambda s: replace(s.pgd, restarts=5), BOXES),
    "pgd-margin": AttackEntry(lambda s: replace(s.pgd, loss=margin), GRADIENT),
    # As many steps as APGD takes (arXiv 2003.01690).
    "pgd-decay": AttackEntry(lambda s: replace(s.pgd, steps=100, relative_step=1.0, decay=True), BOXES, costly=True),
    # The rule of --spare-clean lets such images through most easily (docs/sparing.md).
    "pgd-until-wrong": AttackEntry(lambda s: s.pgd.weak, ("barely",)),
    "pgd-l2": AttackEntry(lambda s: replace(s.pgd, norm=L2, epsilon=s.l2_epsilon), (*BOXES, "printed")),
    "pgd-l1": AttackEntry(lambda s: replace(s.pgd, norm=L1, epsilon=s.l1_epsilon), (*BOXES, "printed")),
    "universal": AttackEntry(lambda s: Universal(epsilon=s.epsilon), (*BOXES, "printed")),
    "patch": AttackEntry(lambda s: Patch(), (*BOXES, "printed"), costly=True),
    "cw-l2": AttackEntry(lambda s: CarliniWagner(epsilon=s.l2_epsilon), BOXES, costly=True),
    "autoattack": AttackEntry(lambda s: AutoAttack(epsilon=s.epsilon, classes=s.classes), BOXES, costly=True),
    "pgd-eot": AttackEntry(lambda s: replace(s.pgd, samples=10), ("white-box",), costly=True),
    "random-search": AttackEntry(lambda s: RandomSearch(epsilon=s.epsilon), ("query",), costly=True),
    "square": AttackEntry(lambda s: Square(epsilon=s.epsilon), ("query",), costly=True),
    "hop-skip-jump": AttackEntry(lambda s: HopSkipJump(epsilon=s.l2_epsilon), ("query",), costly=True),
}
"""Every attack by its name; to add one, write its class and a row here."""


def _corruption(name: str) -> AttackEntry:
    return AttackEntry(lambda s: Corruption(name=name), ("corruptions",))


ATTACKS |= {name.replace("_", "-"): _corruption(name) for name in CORRUPTIONS}

ROWS: dict[str, tuple[str, str]] = {
    f"{threat}:{name}": (threat, name)
    for threat in THREATS
    for name, entry in ATTACKS.items()
    if threat in entry.threats
}
"""Every row by its name: threat and attack."""


def attack_of(row: str, strength: Strength) -> Attack:
    """Return the attack of a row."""
    threat, name = ROWS[row]
    attack = ATTACKS[name].make(strength)
    return Printed(attack=attack) if threat == "printed" else attack
