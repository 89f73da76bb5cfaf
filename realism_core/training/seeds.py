"""Seeds that follow from the training's seed and a count, so that no generator's state has to be kept."""

from __future__ import annotations

import hashlib
import random

import torch

_MASK = 0xFFFFFFFF


def derived_seed(seed: int, purpose: str, count: int) -> int:
    """Return a seed of 32 bits; with one seed and purpose, counts below 2^32 all get different ones.

    32 bits are what the Mersenne twister of a CPU generator takes in. The count is mixed by the finaliser
    of MurmurHash3, which is a bijection.
    """
    base = int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:4], "little")
    mixed = (base + count) & _MASK
    mixed = ((mixed ^ mixed >> 16) * 0x85EBCA6B) & _MASK
    mixed = ((mixed ^ mixed >> 13) * 0xC2B2AE35) & _MASK
    return mixed ^ mixed >> 16


def generator_of(seed: int, purpose: str, count: int) -> torch.Generator:
    """Return a CPU generator for one purpose and count of a training."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, count))


def dice_of(seed: int, purpose: str, count: int) -> random.Random:
    """Return dice for decisions of the host, such as an epoch's order."""
    return random.Random(f"{purpose} {seed} {count}")
