"""Plots of scores, drawn with Pillow."""

from .heatmap import overlay
from .radar import radar

__all__ = ["overlay", "radar"]
