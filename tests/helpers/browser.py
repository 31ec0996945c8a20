"""A real headless Chromium, and what it makes of a page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE_MS = 180_000
"""For what a browser is waited for: on a busy machine it takes a while to start, and to load a page."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

OVERFLOWING = """() => {
    const wide = document.documentElement.scrollWidth > window.innerWidth ? ["the page"] : [];
    for (const part of document.querySelectorAll("body *")) {
        if (part.closest("svg")) continue;
        const box = part.getBoundingClientRect();
        const inner = part.clientWidth && getComputedStyle(part).display !== "inline"
            && part.scrollWidth > part.clientWidth + 1;
        if (box.right > window.innerWidth + 0.5 || box.left < -0.5 || inner) wide.push(part.outerHTML.slice(0, 120));
    }
    return wide;
}"""
"""Elements that reach over the window's edge, or whose content is wider than they are."""

CUT_OFF = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
    const edge = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text, circle, path, rect")].filter(part => {
        const box = part.getBoundingClientRect();
        return box.left < edge.left - 1 || box.right > edge.right + 6 || box.bottom > edge.bottom + 1;
    }).map(part => part.outerHTML.slice(0, 120));
})"""
"""Parts of plots that lie outside of them."""

CONTRASTS = """() => {
    const parse = text => (text.match(/[0-9.]+/g) || []).map(Number);
    const luminance = ([red, green, blue]) => [red, green, blue].map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const ground = part => {
        for (let above = part; above; above = above.parentElement) {
            const colour = parse(getComputedStyle(above).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const found = {};
    for (const part of document.querySelectorAll("body *")) {
        if (![...part.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
        const style = getComputedStyle(part);
        const [one, other] = [parse(part.closest("svg") ? style.fill : style.color), ground(part)].map(luminance);
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        found[`${part.tagName}.${part.getAttribute("class")}`] = ratio;
    }
    return found;
}"""
"""Kind of element -> contrast of its text with its ground (WCAG 2.2, relative luminance)."""


@contextmanager
def open_browser(*options: str) -> Iterator[Any]:
    """Chromium, started; the test is skipped where there is none, unless `$PURIFY_TEST_BROWSER` names one.

    `PURIFY_TEST_BROWSER` is the path of a Chromium, and set where the test must not be skipped.
    """
    asked = os.environ.get("PURIFY_TEST_BROWSER")
    if not asked:
        pytest.importorskip("playwright", reason="playwright is not installed (it is in the dependency group test)")
    from playwright.sync_api import sync_playwright

    found = asked or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium); PURIFY_TEST_BROWSER=FILE names another")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", *options],  # root, in containers
            timeout=PATIENCE_MS,
        )
        yield browser
        browser.close()
