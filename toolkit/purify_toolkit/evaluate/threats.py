"""The rows of an evaluation: which threats there are, which attacks each has, and which rows a user's words mean."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from torch import nn

from purify_edge.errors import InputError, MissingError
from purify_toolkit.attacks.bpda import identity_backward
from purify_toolkit.attacks.corruptions import CORRUPTIONS
from purify_toolkit.evaluate.methods import METHODS
from purify_toolkit.networks.answers import Model

Against = Literal["nothing", "classifier", "pipeline", "approximation", "other pipeline"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated: networks in evaluation mode, on one device.

    Attributes:
        classifier: pixels -> logits.
        purifier: pixels -> pixels.
        other: purifier and classifier of another training, for `transfer`.
    """

    classifier: nn.Module
    purifier: nn.Module
    other: nn.Module | None = None

    @property
    def pipeline(self) -> nn.Sequential:
        """Purifier, then classifier."""
        return nn.Sequential(self.purifier, self.classifier)

    def target(self, against: Against) -> Model:
        """The model that an attack is made against."""
        targets: dict[str, Callable[[], nn.Module | None]] = {
            "nothing": lambda: self.pipeline,  # which no such method asks
            "classifier": lambda: self.classifier,
            "pipeline": lambda: self.pipeline,
            "approximation": lambda: nn.Sequential(identity_backward(self.purifier), self.classifier),
            "other pipeline": lambda: self.other,
        }
        model = targets[against]()
        if model is None:
            raise InputError("a transfer attack needs another run to make its examples on: --transfer-from RUN")
        return model


@dataclass(frozen=True, kw_only=True)
class Threat:
    """One threat model.

    Attributes:
        against: what the attacker computes with: its logits, and their gradient where the method takes one.
        methods: the attacks, names in `METHODS`.
        about: in a sentence, what the attacker knows.
        undefended: whether the classifier alone is shown the same images, as another row.
    """

    against: Against
    methods: tuple[str, ...]
    about: str
    undefended: bool = True


GRADIENT = ("fgsm", "pgd", "pgd-restarts", "pgd-margin", "pgd-decay", "pgd-l2", "cw-l2", "autoattack")

THREATS: dict[str, Threat] = {
    "clean": Threat(against="nothing", methods=("none",), about="unchanged images"),
    "noise": Threat(against="nothing", methods=("uniform", "gaussian"), about="random noise, nobody attacks"),
    "corruptions": Threat(
        against="nothing",
        methods=tuple(name.replace("_", "-") for name in CORRUPTIONS),
        about="common corruptions (arXiv 1903.12261), nobody attacks",
    ),
    "spatial": Threat(
        against="pipeline",
        methods=("rotate-translate",),
        about="the worst of random rotations and shifts (arXiv 1712.02779)",
        undefended=False,
    ),
    "grey-box": Threat(against="classifier", methods=GRADIENT, about="the attacker knows the classifier only"),
    "transfer": Threat(
        against="other pipeline",
        methods=("fgsm", "pgd", "pgd-margin"),
        about="white-box examples of an independently trained purifier and classifier",
    ),
    "query": Threat(
        against="pipeline",
        methods=("random-search", "square", "hop-skip-jump"),
        about="the attacker sees the pipeline's answers, no gradients",
        undefended=False,
    ),
    "white-box": Threat(
        against="pipeline",
        methods=(*GRADIENT, "pgd-eot"),
        about="the attacker differentiates through purifier and classifier",
        undefended=False,
    ),
    "bpda": Threat(
        against="approximation",
        methods=("pgd",),
        about="white-box, with the identity for the purifier's gradient (arXiv 1802.00420)",
        undefended=False,
    ),
}

ROWS: dict[str, tuple[str, str]] = {
    f"{threat}:{method}": (threat, method) for threat, about in THREATS.items() for method in about.methods
}
"""Every row by its name: threat and method."""

DEFAULT = (
    "clean:none",
    "noise:uniform",
    "noise:gaussian",
    "grey-box:fgsm",
    "grey-box:pgd",
    "white-box:fgsm",
    "white-box:pgd",
    "bpda:pgd",
)


def select(words: str, *, transfer: bool) -> list[str]:
    """The rows that words with commas between mean, in the table's order; clean always, and transfer's if it can be.

    A word is a row (`white-box:pgd`), a threat (`white-box`), a method (`pgd`: under every threat that has it),
    `default` or `all`. `all` leaves out transfer where there is no other run.

    >>> select("bpda", transfer=False)
    ['clean:none', 'bpda:pgd']

    Raises:
        InputError: an unknown word; or one that means transfer and nothing else, without another run.
    """
    chosen = {"clean:none"} | ({"transfer:pgd"} if transfer else set())
    for word in filter(None, (part.strip() for part in words.split(","))):
        found = _meaning(word)
        possible = {row for row in found if transfer or ROWS[row][0] != "transfer"}
        if not possible:
            raise InputError(f"{word} needs another run to make its examples on: --transfer-from RUN")
        chosen |= possible
    return [row for row in ROWS if row in chosen]


def _meaning(word: str) -> set[str]:
    if word == "default":
        return set(DEFAULT)
    found = {row for row, (threat, method) in ROWS.items() if word in (row, threat, method, "all")}
    if not found:
        known = ["default", "all", *THREATS, *METHODS, *ROWS]
        close = difflib.get_close_matches(word, known, n=1)
        nearest = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"no attack {word!r}{nearest}; known: default, all, the threats {', '.join(THREATS)}, and the attacks "
            f"{', '.join(METHODS)}, also as THREAT:ATTACK"
        )
    return found


def check_libraries(rows: list[str]) -> None:
    """See to it that what the rows call is installed, before hours are spent on the others.

    Raises:
        MissingError: it is not.
    """
    extras = {"pyautoattack": "train", "foolbox": "attacks"}
    for row in rows:
        needs = METHODS[ROWS[row][1]].needs
        if needs is not None and find_spec(needs) is None:
            extra = extras[needs]
            raise MissingError(f"{row} needs '{extra}': pip install 'purify-edge[{extra}]' ({needs} is not installed)")
