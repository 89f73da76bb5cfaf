"""RealismScoreColumn: numbers of other nodes as a score, and a weighted sum of scores."""

from __future__ import annotations

from ..realism_core.evidence.joining import DIRECTIONS, join_column
from .comfy import io, schema
from .sockets import Scores


class RealismScoreColumn(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismScoreColumn",
            display_name="Realism Score Column",
            category="realism/score",
            description=(
                "Adds the numbers of another node, such as aesthetic or preference scores, to the scores "
                "under a name, so that Realism Gate can judge by them and Save Scored Images writes them "
                "down. With a weight it also adds them into the column combined, a weighted sum."
            ),
            search_aliases=[
                "aesthetic score", "preference score", "combine scores", "weighted score", "float to score",
            ],
            is_input_list=True,
            inputs=[
                Scores.Input(
                    "scores", optional=True,
                    tooltip="Scores that get the column, from Realism Score or another Realism Score "
                    "Column: one table or a list. Left open, scores with this column alone are made.",
                ),
                io.String.Input(
                    "name", default="aesthetic",
                    tooltip="The column's name, for the gate's metric. With values open: a column that the "
                    "scores have already, such as typicality, which gets the weight.",
                ),
                io.Float.Input(
                    "values", optional=True, force_input=True,
                    tooltip="One number for each picture, in the order of the scores: a FLOAT list. NaN "
                    "means unknown. Left open, the node only sets a weight.",
                ),
                io.Combo.Input(
                    "direction", options=list(DIRECTIONS), default="higher",
                    tooltip="Which end is better. lower: the weighted sum subtracts the column. none: a "
                    "plain fact, which takes no weight. The gate's keep is set at the gate.",
                ),
                io.Float.Input(
                    "weight", default=0.0, min=-1e9, max=1e9, step=0.001,
                    tooltip="0: not in the sum. Else combined = the sum of weight x value over all "
                    "weighted columns. Nothing is scaled to the batch, so the weight brings units "
                    "together too: with 1 for typicality (0 to 1), 0.1 suits scores of 1 to 10. A column's "
                    "later weight replaces its earlier one.",
                ),
            ],
            outputs=[
                Scores.Output(
                    display_name="scores", is_output_list=True,
                    tooltip="The scores with the new column and, where there are weights, with combined; "
                    "in batches as they came.",
                )
            ],
        )

    @classmethod
    def execute(cls, name, direction, weight, scores=None, values=None) -> io.NodeOutput:
        return io.NodeOutput(join_column(scores, name[0], values, direction[0], weight[0]))


NODES = [RealismScoreColumn]
