"""What came of a picture, as HTML: three pictures, the classes before and after, and the suspicion score."""

import base64
from collections.abc import Sequence
from xml.etree.ElementTree import Element, tostring

import numpy as np
from numpy.typing import NDArray

from purify_edge.demo.attacks import Pixels
from purify_edge.demo.playground import Outcome, Playground
from purify_edge.document.element import element as e
from purify_edge.images.arrays import to_8bit
from purify_edge.images.grid import DIFFERENCE_GAIN, difference
from purify_edge.images.pictures import png_of

NAMED = 20
"""Classes that the page's head names."""
TOP = 3
"""Classes that are shown with a bar."""
SCALE = 2.0
"""The suspicion meter ends at so many times the threshold."""
OF_EXAMPLES = {
    (True, True): "Right either way.",
    (False, True): "The purifier mended the answer.",
    (True, False): "The purifier spoiled the answer.",
    (False, False): "Wrong either way.",
}
"""Whether the answer without the purifier is right, and that with it -> the verdict."""
OF_UPLOADS = {
    (True, True): "The same answer throughout.",
    (False, True): "The purifier brought the first answer back.",
    (True, False): "The purifier changed the answer.",
    (False, False): "Both answers differ from the first one.",
}
"""The same, where the true class is not known, by the answer before the attack."""


def head_html(playground: Playground) -> str:
    """Return what the page says of the bundle; all text is escaped."""
    names = [*playground.class_names[:NAMED], *(["..."] if len(playground.class_names) > NAMED else [])]
    about = (
        f"The bundle {playground.name} tells {len(playground.class_names)} classes apart: {', '.join(names)}. A "
        f"picture of anything else gets one of them all the same. The stored attacks: {playground.attack}."
    )
    return _text(e("header", e("h1", "Try the purifier"), e("p", about)))


def outcome_html(outcome: Outcome, class_names: Sequence[str]) -> str:
    """Return the result for the page; all text is escaped."""
    parts = [_headline(outcome, class_names), _pictures(outcome)]
    answers = _answers("Without the purifier", outcome.before, class_names)
    parts.append(e("div", answers, _answers("With the purifier", outcome.after, class_names), class_="answers"))
    if outcome.suspicion is not None and outcome.threshold is not None:
        parts.append(_suspicion(outcome.suspicion, outcome.threshold))
    took = f"{outcome.took_ms:.1f} ms for purifier, classifier and score."
    notes = e("p", f"{outcome.note} " if outcome.note else "", took, class_="soft")
    return _text(e("section", *parts, notes, class_="outcome", aria_label="Result"))


def error_html(message: str) -> str:
    """Return what to show in place of a result; the text is escaped."""
    words = f" {message[:1].upper()}{message[1:]}."
    said = e("p", e("strong", "That did not work."), words, class_="verdict bad", role="alert")
    return _text(e("section", said, class_="outcome", aria_label="Result"))


def _text(element: Element) -> str:
    return tostring(element, encoding="unicode", method="html")


def _headline(outcome: Outcome, names: Sequence[str]) -> Element:
    """Say whether the purifier helped."""
    before, after = int(outcome.before.argmax()), int(outcome.after.argmax())
    known = outcome.truth is not None
    aim = outcome.undisturbed if outcome.truth is None else outcome.truth
    verdict = (OF_EXAMPLES if known else OF_UPLOADS)[before == aim, after == aim]
    told = f" The classifier alone says {names[before]}, after the purifier {names[after]}."
    end = f" True class: {names[aim]}." if known else f" Before the attack it said {names[aim]}."
    style = "good" if after == aim else "bad"
    return e("p", e("strong", verdict), told, end, class_=f"verdict {style}", role="status")


def _pictures(outcome: Outcome) -> Element:
    given = outcome.image.transpose(2, 0, 1).astype(np.float32) / 255
    changed = difference(given, outcome.purified)
    shown = {
        "Input": (outcome.image, "the picture as the pipeline was given it"),
        "Purified": (_pixels(outcome.purified), "the picture after the purifier"),
        f"Difference, times {DIFFERENCE_GAIN}": (_pixels(changed), "what the purifier changed; grey is no change"),
    }
    return e("div", *(_picture(title, pixels, said) for title, (pixels, said) in shown.items()), class_="three")


def _picture(title: str, pixels: Pixels, said: str) -> Element:
    source = f"data:image/png;base64,{base64.b64encode(png_of(pixels)).decode()}"
    return e("figure", e("img", src=source, alt=said), e("figcaption", title))


def _pixels(image_CHW: NDArray[np.floating]) -> Pixels:
    pixels = np.asarray(to_8bit(image_CHW))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _answers(title: str, probabilities: NDArray[np.float32], names: Sequence[str]) -> Element:
    """Return the most probable classes with bars."""
    rows = [_bar(names[index], float(probabilities[index])) for index in probabilities.argsort()[::-1][:TOP]]
    return e("div", e("h3", title), e("dl", *rows))


def _bar(name: str, probability: float) -> Element:
    bar = e("span", class_="bar", style=f"width: {100 * probability:.1f}%")
    value = e("dd", f"{100 * probability:.1f}%", e("span", bar, class_="track", aria_hidden="true"))
    return e("div", e("dt", name), value)


def _suspicion(score: float, threshold: float) -> Element:
    suspicious = not score <= threshold
    word = "Suspicious: probably attacked, or unlike the training" if suspicious else "Not suspicious"
    said = f"{word}. The score is {score:.1f}, the threshold {threshold:.1f}."
    full = SCALE * threshold or 1.0
    bar = e("span", class_="bar over" if suspicious else "bar", style=f"width: {min(100.0, 100 * score / full):.1f}%")
    mark = e("span", class_="mark", style=f"left: {100 * threshold / full:.1f}%")
    return e("div", e("h3", "Suspicion"), e("p", said), e("span", bar, mark, class_="track", aria_hidden="true"))
