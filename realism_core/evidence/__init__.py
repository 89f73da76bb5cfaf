"""What the pack knows of a picture: the score table and its columns."""

from .columns import score_table
from .report import report
from .table import Column, ScoreTable

__all__ = ["Column", "ScoreTable", "report", "score_table"]
