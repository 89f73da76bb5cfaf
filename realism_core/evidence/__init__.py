"""What the pack knows of a picture: the score table and its columns."""

from .columns import score_table
from .lattice_map import lattice_map
from .report import report, verdict_of
from .table import Column, ScoreTable

__all__ = ["Column", "ScoreTable", "lattice_map", "report", "score_table", "verdict_of"]
