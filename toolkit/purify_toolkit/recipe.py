"""The recipe: every choice a training makes, read from one TOML file, unknown keys refused."""

import difflib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from purify_edge.errors import InputError
from purify_toolkit.device.precision import Precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Count = Annotated[int, Meta(ge=1)]
Pixels = Annotated[int, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Weight = Annotated[float, Meta(ge=0)]

EPOCHS_OF_STEPS = 10
PURIFIER_KEYS = ("width", "depth", "blocks", "bottleneck")


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the recipe: immutable, no other key accepted.

    A key with a default came later than the first recipes; the default is what they did.
    """


class OptimizerTable(_Table, frozen=True, kw_only=True):
    """What every training stage needs: its length, the optimizer, its highest learning rate in one cycle, its decay.

    The length is in `epochs`, or in `steps` of the optimizer, which do not depend on the number of images.
    """

    epochs: Annotated[int, Meta(ge=0)] = 0
    steps: Annotated[int, Meta(ge=0)] = 0
    batch_size: Annotated[int, Meta(ge=2)]
    learning_rate: Positive
    weight_decay: Weight
    optimizer: Literal["adamw", "sgd"] = "adamw"

    def __post_init__(self) -> None:
        if bool(self.epochs) == bool(self.steps) and not self.stays:
            raise ValueError(f"expected either epochs or steps, got epochs = {self.epochs} and steps = {self.steps}")

    @property
    def stays(self) -> bool:
        """Whether the network is not trained at all."""
        return False

    def length(self, count: int) -> tuple[int, int]:
        """Return how many epochs a training on `count` images has, and how many steps each.

        After each the network is validated and saved. Where the recipe counts in steps, an epoch is a tenth of them.
        """
        if not self.steps:
            return self.epochs, max(1, count // self.batch_size)
        each = -(-self.steps // EPOCHS_OF_STEPS)
        return -(-self.steps // each), each


class ClassifierTable(OptimizerTable, frozen=True, kw_only=True):
    """The classifier, see `networks.Classifier`; its cross-entropy's label smoothing; `augmentation.augment`'s keys."""

    width: Count
    blocks: Count
    architecture: Literal["residual", "pooled", "separable"] = "residual"
    label_smoothing: Fraction = 0.0
    shift: Pixels = 2
    cutout: Pixels = 0


class PurifierTable(OptimizerTable, frozen=True, kw_only=True):
    """A purifier, teacher or student, see `networks.Purifier`.

    With `start`, the name of a pair that ships or the path of a run, training begins from that one's student, and the
    statistics of its batch normalisation stay as they are: those of small batches would be worse. Without a length it
    stays what it begins as.
    """

    start: str | None = None
    width: Count
    depth: Annotated[int, Meta(ge=1, le=5)]
    blocks: Annotated[int, Meta(ge=0)]
    bottleneck: Annotated[int, Meta(ge=0)] = 0

    @property
    def stays(self) -> bool:
        """Whether it stays what its `start` is."""
        return self.start is not None and not self.epochs and not self.steps

    @property
    def network(self) -> dict[str, Any]:
        """The arguments of `networks.Purifier` but for the image's channels."""
        return {key: getattr(self, key) for key in PURIFIER_KEYS}


class DistillationTable(_Table, frozen=True, kw_only=True):
    """The weights of the losses, see `losses`.

    `classifier_guidance` also goes for the adversarial teacher, unless `teacher_guidance` is its own weight for that:
    a student that is not shown the classifier may then have a teacher that was.

    `adversarial_teacher_weight` is the adversarial teacher's share of what the student imitates, the rest that of the
    second teacher; `clean_adversarial_teacher_weight` its share where the image is not attacked, without it the same.
    The second teacher is the normally trained one, or the `original`, the clean image itself.

    Two losses are 0 by default, and so in all recipes that ship; `studies/ablation.py` has an arm for each.
    """

    adversarial_teacher_weight: Fraction
    clean_adversarial_teacher_weight: Fraction | None = None
    second_teacher: Literal["normal", "original"] = "normal"
    reconstruction: Weight
    imitation: Weight
    classifier_guidance: Weight
    adversarial_fraction: Fraction
    teacher_guidance: Weight | None = None
    feature_guidance: Weight = 0.0
    structure: Weight = 0.0

    @property
    def adversarial_shares(self) -> tuple[float, float]:
        """The adversarial teacher's share for attacked images, and for those that are not."""
        attacked, clean = self.adversarial_teacher_weight, self.clean_adversarial_teacher_weight
        return attacked, attacked if clean is None else clean

    @property
    def guidance_of_teacher(self) -> float:
        """The weight of the classifier's answers in the adversarial teacher's training."""
        return self.classifier_guidance if self.teacher_guidance is None else self.teacher_guidance

    @property
    def has_loss(self) -> bool:
        """Whether any loss of the student weighs something."""
        images = self.reconstruction or self.imitation or self.structure
        return bool(images or self.classifier_guidance or self.feature_guidance)


class AttackTable(_Table, frozen=True, kw_only=True):
    """How the adversarial training examples are made, see `examples.AdversarialPool`."""

    epsilon_min: Fraction
    epsilon_max: Fraction
    steps: Count
    relative_step: Positive
    refresh_epochs: Count
    single_step: Fraction = 0.0
    crop: Annotated[float, Meta(gt=0, le=1)] = 1.0

    def __post_init__(self) -> None:
        if self.epsilon_min > self.epsilon_max:
            raise ValueError(f"epsilon_min {self.epsilon_min} is above epsilon_max {self.epsilon_max}")


class AdaptiveTable(_Table, frozen=True, kw_only=True):
    """White-box training of the student, see `student.StudentLosses`: how its examples are made, the labels' weight.

    With `decay` the steps shrink from `relative_step` on, see `attacks.gradient.PGD`.
    """

    epsilon: Fraction
    steps: Count
    relative_step: Positive
    labels: Weight
    decay: bool = False


class EvaluationTable(_Table, frozen=True, kw_only=True):
    """The PGD of the final evaluation, see `attacks.gradient.PGD`."""

    epsilon: Fraction
    steps: Count
    relative_step: Positive


class Recipe(_Table, frozen=True, kw_only=True):
    """One training, from data to student. `image_size` is height and width.

    `normal_teacher` is of the table `teacher`, as the adversarial one, unless it has a table of its own.
    """

    dataset: Literal["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "gtsrb", "image-folder"]
    validation_size: Count
    image_size: tuple[Count, Count] | None = None
    channels: Literal[1, 3] | None = None
    classifier: ClassifierTable
    teacher: PurifierTable
    normal_teacher: PurifierTable | None = None
    student: PurifierTable
    distillation: DistillationTable
    attack: AttackTable
    evaluation: EvaluationTable
    adaptive: AdaptiveTable | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for key, datasets in (("channels", ("image-folder",)), ("image_size", ("image-folder", "gtsrb"))):
            if getattr(self, key) and self.dataset not in datasets:
                raise ValueError(f"{key} is for the dataset {' or '.join(datasets)}, not for {self.dataset}")
        labels = self.adaptive.labels if self.adaptive else 0.0
        if not (labels or self.distillation.has_loss):
            raise ValueError("every loss of the student weighs 0; give one of [distillation] a weight")

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers whose images the student is to imitate; none where the weights leave nothing of them."""
        weights = self.distillation
        if not weights.imitation:
            return ()
        shares = weights.adversarial_shares
        normal = min(shares) < 1 and weights.second_teacher == "normal"
        wanted = {"adversarial_teacher": max(shares) > 0, "normal_teacher": normal}
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

    def purifier(self, name: str) -> PurifierTable:
        """Return the table of the student or a teacher."""
        if name == "student":
            return self.student
        return self.normal_teacher or self.teacher if name == "normal_teacher" else self.teacher

    def same_teacher(self, name: str, other: "Recipe") -> bool:
        """Return whether another recipe trains the same teacher; the normal one sees no attack."""
        guidance = self.distillation.guidance_of_teacher == other.distillation.guidance_of_teacher
        same_attack = guidance and self.attack == other.attack
        return self.purifier(name) == other.purifier(name) and (name == "normal_teacher" or same_attack)


def recipe_folder() -> Path:
    """Return where the shipped recipes lie: inside the installed package, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in recipe_folder().glob("*.toml"))


def find_recipe(name_or_path: str) -> Path:
    """Find the file of a shipped recipe by its name, or by a path that ends in `.toml`, or raise InputError."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = recipe_folder() / f"{name_or_path}.toml"
    if path.is_file():
        return path
    raise InputError(
        f"no recipe {name_or_path!r}{nearest(name_or_path, shipped_recipes())}; "
        f"give one of {', '.join(shipped_recipes())}, or the path of a .toml file"
    )


def read_recipe(path: Path) -> str:
    """Read the text of a recipe's file; raise InputError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); expected a recipe in TOML") from error


def with_image_size(text: str, size: tuple[int, int]) -> str:
    r"""Return the text of a recipe with another `image_size`, height and width; all else stays as it is.

    >>> with_image_size('image_size = [8, 8] # small\n[teacher]\n', (32, 48))
    'image_size = [32, 48]\n[teacher]\n'
    """
    others = [line for line in text.splitlines(keepends=True) if not re.match(r"\s*image_size\s*=", line)]
    return "".join([f"image_size = [{size[0]}, {size[1]}]\n", *others])


def with_start(text: str, start: str, network: Mapping[str, int]) -> str:
    r"""Return the text of a recipe whose student begins from a run or pair and has the size of its network.

    >>> print(with_start('[student]\nstart = "photos"\nwidth = 12\nsteps = 9\n', "mine", {"width": 6}), end="")
    [student]
    start = "mine"
    width = 6
    steps = 9

    Raises:
        InputError: it has no line `[student]`.
    """
    own = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in {"start": start, **network}.items()]
    replaced = re.compile(rf"\s*({'|'.join(('start', *network))})\s*=")
    lines, is_student, found = [], False, False
    for line in text.splitlines(keepends=True):
        is_header = line.lstrip().startswith("[")
        if is_header:
            is_student = re.match(r"\s*\[\s*student\s*]", line) is not None
        if not (is_student and replaced.match(line)):
            lines.append(line)
        if is_header and is_student:
            lines += own
            found = True
    if not found:
        raise InputError("--start found no table [student] in the recipe; give it a line [student], and its keys below")
    return "".join(lines)


def without_start(text: str) -> str:
    r"""Return the text of a recipe without the keys `start`; all else stays as it is.

    >>> without_start('[student]\nstart = "cifar10" # ships\nwidth = 24\n')
    '[student]\nwidth = 24\n'
    """
    return "".join(line for line in text.splitlines(keepends=True) if not re.match(r"\s*start\s*=", line))


def parse_recipe(text: str, *, source: str) -> Recipe:
    """Parse the recipe that a TOML text holds, or raise InputError, in which `source` names the text."""
    try:
        return msgspec.convert(tomllib.loads(text), Recipe)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{source}: {error}{_suggestion(str(error))}") from error


def _suggestion(message: str) -> str:
    """Name the nearest known key, when msgspec reports an unknown one."""
    match = re.search(r"unknown field `(.+?)`(?: - at `\$\.?(\w*)`)?", message)
    if match is None:
        return ""
    known = {field.name: field.type for field in msgspec.structs.fields(Recipe)}
    table = known.get(match[2] or "", Recipe)
    names = [field.name for field in msgspec.structs.fields(table)]
    return nearest(match[1], names) + f"; known here: {', '.join(names)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the question whether the nearest known name was meant; empty where none is near."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
