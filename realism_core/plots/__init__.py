"""Plots of scores, drawn with Pillow."""

from .heatmap import overlay
from .histogram import histogram
from .radar import radar
from .sheet import MOST, sheet
from .stack import stack

__all__ = ["MOST", "histogram", "overlay", "radar", "sheet", "stack"]
