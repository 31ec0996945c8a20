"""HTML and SVG elements as trees, not as text: all that is put into them is escaped when they are written."""

import re
from xml.etree.ElementTree import Element

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Control characters and halves of surrogate pairs, which a document may not hold."""


def element(tag: str, *content: "str | Element", **attributes: object) -> Element:
    """Return an element with text and elements in it; `class_` is `class`, and `stroke_width` is `stroke-width`."""
    made = Element(tag, {_name(key): clean(str(value)) for key, value in attributes.items()})
    for part in content:
        if isinstance(part, Element):
            made.append(part)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + clean(part)
        else:
            made.text = (made.text or "") + clean(part)
    return made


def _name(key: str) -> str:
    return key if key == "viewBox" else key.rstrip("_").replace("_", "-")


def clean(text: str) -> str:
    """Return the text with the replacement character for what a document may not hold."""
    return UNPRINTABLE.sub("\ufffd", text)
