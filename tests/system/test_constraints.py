"""The pinned versions: whatever the Makefile installs at the desk has one that the project allows."""

import re
from collections.abc import Iterator

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.project import GROUPS, PROJECT, REPOSITORY

INSTALLED = re.findall(r"^\t\$\(PIP\).* -e '\.\[([a-z,]+)\]'", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
DESK = {"train"} | {extra for extras in INSTALLED for extra in extras.split(",")}  # export brings train
DEMO = {"cpu", "demo"}
OURS = {"purify-edge", "purify-edge-pairs", "purify-edge-photos"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def wanted(extras: set[str], groups: tuple[str, ...] = ()) -> Iterator[Requirement]:
    """What the project asks for, without its own distributions."""
    listed = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    for text in sum([*listed, *(GROUPS[group] for group in groups)], list[str]()):
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) not in OURS:
            yield requirement


def test_the_makefile_installs_what_it_is_asked_for() -> None:
    assert {"export", "cpu", "video", "sign"} <= DESK


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("file", "requirements"),
    [("desk.txt", [*wanted(DESK, ("test-device", "test", "docs", "check"))]), ("demo.txt", [*wanted(DEMO)])],
    ids=["desk", "demo"],
)
def test_every_requirement_has_a_pin_that_fits(file: str, requirements: list[Requirement], python: str) -> None:
    environment = dict(default_environment()) | {"python_version": python, "python_full_version": f"{python}.14"}
    lines = (REPOSITORY / "constraints" / file).read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    valid = [pin for pin in pins if not pin.marker or pin.marker.evaluate(environment)]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in valid}
    assert len(versions) == len(valid)
    for requirement in requirements:
        if not requirement.marker or requirement.marker.evaluate(environment):
            version = versions.get(canonicalize_name(requirement.name))
            assert version, f"{requirement} has no pin in constraints/{file}: make constraints"
            assert requirement.specifier.contains(version, prereleases=True), requirement
