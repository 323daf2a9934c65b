# SPDX-License-Identifier: Apache-2.0
"""The constraints let every extra be installed: no pin is one that another pinned package refuses."""

from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lucidworks_provider

CONSTRAINTS = Path(lucidworks_provider.__file__).parents[1] / "constraints.txt"


def refused(pins: dict[str, str]) -> list[str]:
    """Requirements of what is installed as pinned that exclude a pin."""
    found = []
    for package in distributions():
        name = canonicalize_name(package.metadata["Name"])
        if pins.get(name) != package.version:
            continue
        for text in package.requires or ():
            needed = Requirement(text)
            pin = pins.get(canonicalize_name(needed.name))
            applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if applies and pin is not None and not needed.specifier.contains(pin, prereleases=True):
                found.append(f"{name} {package.version} needs {text}, pinned is {pin}")
    return found


def read_pins() -> dict[str, str]:
    lines = [
        line.partition("#")[0].partition(";")[0].strip() for line in CONSTRAINTS.read_text().splitlines()
    ]
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if line)
    }


def test_pins_agree() -> None:
    assert refused(read_pins()) == []
