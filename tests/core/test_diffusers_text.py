"""diffusers loads text encoders' LoRAs from our files to what the same updates in their weights give."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from realism_core.training.lora_file import save_lora
from tests import diffusers_peer
from tests.core.lora_models import MODELS, WIDTH
from tests.lora_states import deltas, random_state

ENCODERS = {"sd15": {"clip_l": "text_encoder"},
            "sdxl": {"clip_l": "text_encoder", "clip_g": "text_encoder_2"},
            "sd3": {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}}  # fmt: skip
# diffusers reads SD3 in its own layout only
READ = [("sd15", "kohya"), ("sdxl", "kohya"), *((kind, "diffusers") for kind in ENCODERS)]


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    return diffusers_peer.diffusers()


def encoder(projected: bool) -> nn.Module:
    # not before `diffusers` is there, see diffusers_peer
    from transformers.models.clip.modeling_clip import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
    )

    config = CLIPTextConfig(
        vocab_size=50, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=9, projection_dim=WIDTH, bos_token_id=48, eos_token_id=49,
    )  # fmt: skip
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


@torch.no_grad()
def encoded(model: nn.Module) -> Tensor:
    return model(torch.tensor([[3, 8, 20, 4, 49]]), output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize(("kind", "layout"), READ)
def test_each_encoder_gets_its_own_updates(
    diffusers: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, layout: str
) -> None:
    from diffusers import loaders

    shapes = MODELS[kind]()
    paths = [path for path in shapes if ".transformer." in path]
    state = random_state(shapes, paths, rank=3, alpha=2, seed=6, size=0.2)
    save_lora(tmp_path / "lora.safetensors", state, layout, shapes, {})
    loader = {
        "sd15": loaders.StableDiffusionLoraLoaderMixin,
        "sdxl": loaders.StableDiffusionXLLoraLoaderMixin,
        "sd3": loaders.SD3LoraLoaderMixin,
    }[kind]
    read = loader.lora_state_dict(str(tmp_path), weight_name="lora.safetensors")
    tensors, alphas = read if isinstance(read, tuple) else (read, None)
    for place, prefix in ENCODERS[kind].items():
        model = encoder(projected=prefix == "text_encoder_2" or kind == "sd3")
        merged, before = encoder(projected=prefix == "text_encoder_2" or kind == "sd3"), encoded(model)
        for path, delta in deltas(state).items():
            if path.startswith(place):
                name = path.split(".", 2)[2]
                if not hasattr(merged, "text_model"):  # newer transformers hold its parts directly
                    name = name.removeprefix("text_model.")
                merged.get_submodule(name).weight.data += delta.float()
        with caplog.at_level("WARNING"):
            loader.load_lora_into_text_encoder(tensors, alphas, text_encoder=model, prefix=prefix)
        assert "unexpected" not in caplog.text and "No LoRA keys" not in caplog.text
        adapted = [name for name, part in model.named_modules() if hasattr(part, "lora_A")]
        assert len(adapted) == 2 * 6, prefix
        expected = encoded(merged)
        assert (expected - before).abs().max() > 0.01
        assert (encoded(model) - expected).abs().max() <= 1e-5 * float(expected.abs().max())
