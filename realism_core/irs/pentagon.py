"""From five measures to five radii and the area of their pentagon."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEFINITIONS = ("reference", "paper")
REFERENCE_MEANS = (0.11623, 418.309, 0.04643, 3317.952377, 96.773)
REFERENCE_DIVISORS = (0.637340, 0.43478, 1.03037, 1.1126, 1.01640)
# which exponent each ratio measure / mean takes, in the order of Measures
REFERENCE_POWERS = (1, 1, -1, -1, 1)
PAPER_POWERS = (1, 1, -1, -1, -1)
# neighbouring corners of the pentagon, in the order of Measures
REFERENCE_RING = ((0, 1), (0, 4), (1, 3), (3, 2), (2, 4))
PAPER_RING = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0))


def check_definition(definition: str) -> str:
    """Return the definition's name, or raise a ValueError that lists the known ones."""
    if definition not in DEFINITIONS:
        raise ValueError(f"definition is {definition!r}; use one of {', '.join(DEFINITIONS)}.")
    return definition


def radii(measures: Tensor, definition: str, means: Tensor | None = None) -> Tensor:
    """Return the five radii [B,5] from measures [B,5]; a radius of 1 is a real picture's, by that definition.

    reference: the research code's constants; `means` is not used. paper: ratios to `means` [5], the means of
    real pictures measured by the paper's definition at its size (science: arXiv 2309.14756, eq. 1-9).
    A measure of 0 below a fraction bar gives infinity here; `score` reports it as not applicable.
    """
    if check_definition(definition) == "reference":
        ratio = measures / measures.new_tensor(REFERENCE_MEANS)
        ratio = torch.cat((ratio[:, :4], ratio[:, 4:].abs()), 1)
        return ratio ** measures.new_tensor(REFERENCE_POWERS) / measures.new_tensor(REFERENCE_DIVISORS)
    if means is None:
        raise ValueError("means are needed for definition 'paper': pass the measure means of a profile.")
    return (measures / means.to(measures)) ** measures.new_tensor(PAPER_POWERS)


def measures_of(radius: Tensor, definition: str, means: Tensor) -> Tensor:
    """Return the measures [B,5] that have the radii [B,5]: `radii` turned back, with the same `means`.

    NaN where a radius does not tell: `reference` takes the spectrum without its sign.
    """
    if check_definition(definition) == "reference":
        ratio = (radius * radius.new_tensor(REFERENCE_DIVISORS)) ** radius.new_tensor(REFERENCE_POWERS)
        ratio[:, 4] = torch.nan
        return ratio * radius.new_tensor(REFERENCE_MEANS)
    return radius ** radius.new_tensor(PAPER_POWERS) * means.to(radius)


def pentagon_area(radius: Tensor, definition: str) -> Tensor:
    """Return the Image Realism Score [B]: the area of the pentagon with the radii [B,5], unbounded above."""
    ring = REFERENCE_RING if check_definition(definition) == "reference" else PAPER_RING
    total = sum(radius[:, i] * radius[:, j] for i, j in ring)
    return total * (0.5 * math.sin(math.radians(72)))
