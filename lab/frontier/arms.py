"""The arms: which teachers a student imitates, and how; the teachers by name."""

from dataclasses import dataclass
from typing import Any

Keys = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """What a student imitates: `settings` are keys of [distillation]; teachers are named as in `TEACHERS`."""

    title: str
    settings: tuple[Keys, ...]
    adversarial: str | None = None
    normal: str | None = None


TEACHERS: dict[str, tuple[str, float, Keys]] = {
    "led": ("adversarial_teacher", 1.0, {}),
    "unled": ("adversarial_teacher", 0.0, {}),
    "skips": ("normal_teacher", 0.0, {}),
    "bottleneck": ("normal_teacher", 0.0, {"bottleneck": 2}),
    "wide-bottleneck": ("normal_teacher", 0.0, {"bottleneck": 8}),
}
"""By name: which teacher it is, whether it is led by the classifier's answers, and what its network differs in."""

ALONE = {"imitation": 1.0, "reconstruction": 0.0}
ORIGINAL = {**ALONE, "second_teacher": "original"}
GUIDED = {"imitation": 0.0, "reconstruction": 1.0, "adversarial_fraction": 0.6, "classifier_guidance": 1.0}


def _mixed(base: Keys, *shares: float) -> tuple[Keys, ...]:
    return tuple({**base, "adversarial_teacher_weight": share} for share in shares)


def _split(base: Keys, *shares: float) -> tuple[Keys, ...]:
    """Attacked images are shown the adversarial teacher alone, the others a share of it."""
    one = {**base, "adversarial_teacher_weight": 1.0}
    return tuple({**one, "clean_adversarial_teacher_weight": share} for share in shares)


ARMS = {
    "guided": Arm("guided by the classifier, no teacher", (GUIDED,)),
    "features": Arm("guided by its features too, no teacher", ({**GUIDED, "feature_guidance": 1.0},)),
    "none": Arm(
        "none: the original",
        tuple({"imitation": 0.0, "reconstruction": 1.0, "adversarial_fraction": of} for of in (0.6, 0.8, 0.95, 1.0)),
    ),
    "skips": Arm(
        "normal",
        tuple({**ALONE, "adversarial_teacher_weight": 0.0, "adversarial_fraction": of} for of in (0.6, 1.0)),
        normal="skips",
    ),
    "bottleneck": Arm(
        "normal, bottleneck",
        tuple({**ALONE, "reconstruction": of, "adversarial_teacher_weight": 0.0} for of in (0.0, 0.3, 0.6, 0.9)),
        normal="bottleneck",
    ),
    "led": Arm("adversarial, with the original", _mixed(ORIGINAL, 1.0, 0.85, 0.7, 0.55), adversarial="led"),
    "unled": Arm(
        "adversarial, not led, with the original", _mixed(ORIGINAL, 1.0, 0.85, 0.7, 0.55), adversarial="unled"
    ),
    "split-original": Arm(
        "adversarial where attacked, the original where not", _split(ORIGINAL, 0.75, 0.5, 0.25, 0.0), adversarial="led"
    ),
    "mean-skips": Arm("mean of both", _mixed(ALONE, 0.85, 0.7, 0.55), adversarial="led", normal="skips"),
    "split-skips": Arm("both, split", _split(ALONE, 0.75, 0.5, 0.25, 0.0), adversarial="led", normal="skips"),
    "mean-bottleneck": Arm(
        "mean of both, bottleneck", _mixed(ALONE, 0.85, 0.7, 0.55, 0.3), adversarial="led", normal="bottleneck"
    ),
    "split-bottleneck": Arm(
        "both, split, bottleneck", _split(ALONE, 0.75, 0.5, 0.25, 0.0), adversarial="led", normal="bottleneck"
    ),
    "split-wide-bottleneck": Arm(
        "both, split, bottleneck of 8", _split(ALONE, 0.75, 0.5, 0.25, 0.0), adversarial="led", normal="wide-bottleneck"
    ),
}
"""By the name of its folder. A setting's folder is its number."""
