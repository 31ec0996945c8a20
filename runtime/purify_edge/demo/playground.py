"""What the page plays with: a bundle's pipeline and golden examples, and what comes of a picture and an attack."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.demo.attacks import Disturbance, Pixels, Tell, Victim, quiet, tricks_with
from purify_edge.demo.gradient import gradient_attack
from purify_edge.errors import InputError
from purify_edge.images.arrays import as_batch
from purify_edge.images.decoding import read_image, require_channels
from purify_edge.pipeline.pipeline import Pipeline
from purify_edge.pipeline.prediction import NO_ANSWER

EACH, EXAMPLES = 2, 20
"""Examples of a class, and of all classes together, at most."""
MAX_UPLOAD_BYTES = 20 * 1024**2
YOURS = "Your picture"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A golden example: uint8 `[H, W, C]` clean, attacked where the bundle has that, and its true class."""

    title: str
    clean: Pixels
    attacked: Pixels | None
    label: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a picture.

    Attributes:
        image: uint8 `[H, W, C]`, as the pipeline was given it.
        purified: float32 `[C, H, W]` in [0, 1].
        before, after: float32 `[K]`, the probabilities without the purifier and with it.
        truth: the true class, where it is known.
        undisturbed: what the classifier says of the picture before the attack.
        suspicion, threshold: None where the bundle has no threshold.
        took_ms: of the pipeline, with the score, without the attack.
        note: what the attack has to say.
    """

    image: Pixels
    purified: NDArray[np.float32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    truth: int | None
    undisturbed: int
    suspicion: float | None
    threshold: float | None
    took_ms: float
    note: str


class Playground:
    """A bundle to play with; any thread may call it.

    Attributes:
        class_names: the names of the K classes.
        samples: title -> golden example.
        attack: a description of what made the stored attacks.
        tricks: name on the page -> what can be done to a picture here.
    """

    def __init__(self, bundle: Bundle, pipeline: Pipeline) -> None:
        require_channels(bundle.manifest.input, str(bundle.path))
        self._pipeline = pipeline
        self.name, self.class_names = bundle.manifest.name, bundle.manifest.class_names
        self.attack = bundle.manifest.golden.attack
        self.samples = _samples(bundle)
        examples = np.stack([sample.clean for sample in self.samples.values()])
        self.tricks = tricks_with(gradient_attack(bundle, as_batch(examples, pipeline.input)))
        pipeline.predict(next(iter(self.samples.values())).clean[None])  # the first one takes longer

    def play(self, example: str | None, upload: str | None, attack: str, size: float, tell: Tell = quiet) -> Outcome:
        """Disturb a picture and run it.

        Args:
            example: title of a golden example; not looked at where there is an upload.
            upload: path of an image file.
            attack: a key of `tricks`.
            size: of the attack.
            tell: called before each step of an attack by the gradient.

        Raises:
            InputError: neither a picture nor an example, a file that is no image or too large, or no such attack.
        """
        sample = None if upload else self.samples.get(example or "")
        clean = sample.clean if sample else self._uploaded(upload)
        disturbed = self._disturbed(clean, sample, attack, size, tell)
        begin = time.perf_counter()
        prediction = self._pipeline.predict(disturbed.image[None])
        took_ms = 1000 * (time.perf_counter() - begin)
        if not prediction.answered.all():
            raise InputError(f"{NO_ANSWER}: this picture has none")
        before = prediction.unpurified
        entry, suspicion = self._pipeline.suspicion, prediction.suspicion
        return Outcome(
            image=disturbed.image,
            purified=prediction.purified[0],
            before=(self._pipeline.classify(disturbed.image[None]) if before is None else before)[0],
            after=prediction.probabilities[0],
            truth=sample.label if sample else None,
            undisturbed=int(self._pipeline.classify(clean[None])[0].argmax()),
            suspicion=None if suspicion is None else float(suspicion[0]),
            threshold=entry.threshold if entry else None,
            took_ms=took_ms,
            note=disturbed.note,
        )

    def _uploaded(self, upload: str | None) -> Pixels:
        if not upload:
            raise InputError("there is no picture: choose an example, upload a picture or take one with the camera")
        if Path(upload).stat().st_size > MAX_UPLOAD_BYTES:
            raise InputError(f"{YOURS} is larger than {MAX_UPLOAD_BYTES // 1024**2} MB; scale it down")
        return read_image(upload, self._pipeline.input, name=YOURS)

    def _disturbed(self, clean: Pixels, sample: Sample | None, attack: str, size: float, tell: Tell) -> Disturbance:
        if attack not in self.tricks:
            raise InputError(f"no attack {attack!r}; the attacks are {', '.join(self.tricks)}")
        victim = Victim(image=clean, pipeline=self._pipeline, tell=tell)
        if sample:
            victim = replace(victim, stored=sample.attacked, label=sample.label)
        return self.tricks[attack].apply(victim, size)


def _samples(bundle: Bundle) -> dict[str, Sample]:
    """Return the first golden images of each class, not chosen otherwise."""
    splits, names = load_golden(bundle), bundle.manifest.class_names
    clean, attacked = splits["clean"], splits.get("adversarial")
    found: list[Sample] = []
    seen: Counter[int] = Counter()
    for index, label in enumerate(clean.labels.tolist()):
        seen[label] += 1
        if seen[label] <= EACH and len(found) < EXAMPLES:
            image = attacked.images[index] if attacked else None
            title = f"{names[label]}, {seen[label]}"
            found.append(Sample(title=title, clean=clean.images[index], attacked=image, label=label))
    return {sample.title: sample for sample in sorted(found, key=lambda sample: sample.label)}
