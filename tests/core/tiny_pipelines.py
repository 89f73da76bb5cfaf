"""The smallest pipelines in diffusers' folder layout, with random weights, of each kind that is trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import torch

WORDS = ["!", "<|startoftext|>", "<|endoftext|>", "a", "b", "c", "a</w>", "b</w>", "c</w>", "photo</w>"]


def folder_of(diffusers: ModuleType, kind: str, path: Path, prediction: str = "epsilon") -> Path:
    """Write a pipeline of a kind: sd, sdxl, sd3 or flux; prediction: of the UNets."""
    torch.manual_seed(3)
    parts: dict = {"vae": _vae(diffusers, 4 if kind in ("sd", "sdxl") else 16)}
    tokens = _tokenizer(path.parent / f"words-{kind}")
    if kind in ("sd", "sdxl"):
        parts["unet"] = _unet(diffusers, kind)
        parts["scheduler"] = diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
        )
    else:
        dynamic = {"use_dynamic_shifting": True} if kind == "flux" else {"shift": 3.0}
        parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler(**dynamic)
    if kind == "sd":
        parts |= {"text_encoder": _clip(False), "tokenizer": tokens}
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        made = diffusers.StableDiffusionPipeline(**parts)
    elif kind == "sdxl":
        parts |= {"text_encoder": _clip(False), "text_encoder_2": _clip(True)}
        made = diffusers.StableDiffusionXLPipeline(**parts, tokenizer=tokens, tokenizer_2=tokens)
    elif kind == "sd3":
        parts["transformer"] = diffusers.SD3Transformer2DModel(
            sample_size=8, num_layers=2, attention_head_dim=4, num_attention_heads=2, joint_attention_dim=24,
            caption_projection_dim=8, pooled_projection_dim=24, pos_embed_max_size=16, out_channels=16,
            dual_attention_layers=(0,),
        )  # fmt: skip
        parts |= {"text_encoder": _clip(True), "text_encoder_2": _clip(True), "text_encoder_3": None}
        made = diffusers.StableDiffusion3Pipeline(
            **parts, tokenizer=tokens, tokenizer_2=tokens, tokenizer_3=None
        )
    else:
        parts["transformer"] = diffusers.FluxTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=1,
            joint_attention_dim=12, pooled_projection_dim=12, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
        )  # fmt: skip
        parts |= {"text_encoder": _clip(False), "text_encoder_2": _t5()}
        made = diffusers.FluxPipeline(**parts, tokenizer=tokens, tokenizer_2=tokens)
    made.save_pretrained(path, safe_serialization=True)
    return path


def _vae(diffusers: ModuleType, channels: int):
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=["DownEncoderBlock2D"] * 4, norm_num_groups=2,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=channels, layers_per_block=1,
        scaling_factor=0.6, shift_factor=0.1 if channels == 16 else None,
    )  # fmt: skip


def _unet(diffusers: ModuleType, kind: str):
    options: dict = {}
    down, up = ["CrossAttnDownBlock2D", "DownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]
    if kind == "sdxl":
        down, up = down[::-1], up[::-1]
        options = {
            "transformer_layers_per_block": (1, 2), "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 2,
            "projection_class_embeddings_input_dim": 12 + 12,
        }  # fmt: skip
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=2,
        cross_attention_dim=24 if kind == "sdxl" else 12, norm_num_groups=4, down_block_types=down,
        up_block_types=up, **options,
    )  # fmt: skip


def _clip(projected: bool):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=12, intermediate_size=16, num_hidden_layers=2, projection_dim=12,
        num_attention_heads=2, max_position_embeddings=12, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5():
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(WORDS), d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).eval()


def _tokenizer(path: Path):
    from transformers import CLIPTokenizer

    path.mkdir(parents=True, exist_ok=True)
    (path / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(WORDS)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=12)
