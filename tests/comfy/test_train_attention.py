"""RealismTrainLoRA with attention that has no gradient of its own."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from devtools.server import ComfyServer
from tests.comfy.graphs import Graph, done
from tests.comfy.searches import Checkpoints, loaded
from tests.comfy.trainings import training


@pytest.mark.parametrize(("kind", "layers"), [("sd15_noclip", "*.attn?.to_[qkv]"), ("sd3", "*.attn.qkv")])
def test_layers_before_attention_learn_all_the_same(
    server: ComfyServer, checkpoints: Checkpoints, kind: str, layers: str
) -> None:
    graph = Graph()
    parts = loaded(graph, server, checkpoints, kind)
    blind = graph.add("TestBlindAttention", model=parts["model"])
    trained = training(
        graph, {**parts, "model": blind}, targets="pattern", pattern=layers, steps=2, batch_size=1,
        learning_rate=1e-2, rank=2, alpha=2.0,
    )  # fmt: skip
    graph.add("RealismSaveLoRA", lora=trained["lora"], filename_prefix=f"loras/blind-{kind}")
    done(server.run(graph))
    (file,) = (server.base / "output" / "loras").glob(f"blind-{kind}*.safetensors")
    learned = {name: tensor for name, tensor in load_file(file).items() if "lora_up" in name}
    assert len(learned) > 1
    assert all(tensor.abs().max() > 1e-3 for tensor in learned.values())
