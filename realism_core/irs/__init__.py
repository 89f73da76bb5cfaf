"""The Image Realism Score (arXiv 2309.14756): measures, pentagon, profiles."""

from .bands import real_bands
from .measures import Measures, measure
from .pentagon import DEFINITIONS
from .profile import Profile
from .score import Scores, score, typicality_map

__all__ = ["DEFINITIONS", "Measures", "Profile", "Scores", "measure", "real_bands", "score", "typicality_map"]
