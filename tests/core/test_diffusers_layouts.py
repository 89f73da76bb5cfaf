"""diffusers loads our files to the model with the same updates in its weights, and names layers as we do.

diffusers' own converters of checkpoints are the reference for which layer is which.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from realism_core.training.lora_file import read_tensors, save_lora
from tests import diffusers_peer
from tests.core.lora_models import MODELS, WIDTH
from tests.lora_states import ATTENTION, Shapes, deltas, layers, random_state
from tests.tiny_layouts import UNET

EVERYTHING = re.compile(".*")


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    return diffusers_peer.diffusers()


def checkpoint(shapes: Shapes, added: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return random weights and biases of all layers under their makers' names, with updates added."""
    random = torch.Generator().manual_seed(4)
    made = {}
    for path, shape in shapes.items():
        weight = torch.randn(shape, generator=random) * (0.3 if len(shape) > 1 else 1)
        made[f"{UNET}{path}.weight"] = weight + added[path].float() if path in added else weight
        if not path.endswith((".to_q", ".to_k", ".to_v")):
            made[f"{UNET}{path}.bias"] = 0.1 * torch.randn(shape[0], generator=random)
    return made


def unet(diffusers: ModuleType, kind: str) -> nn.Module:
    cross = 3 if kind == "sd15" else 2
    down = ["CrossAttnDownBlock2D"] * cross
    up = ["CrossAttnUpBlock2D"] * cross
    options: dict = {}
    if kind == "sd15":
        down, up = [*down, "DownBlock2D"], ["UpBlock2D", *up]
    else:
        down, up = ["DownBlock2D", *down], [*up, "UpBlock2D"]
        options = {
            "transformer_layers_per_block": (1, 2, 3), "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 2,
            "projection_class_embeddings_input_dim": 20,
        }  # fmt: skip
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(WIDTH,) * len(down), layers_per_block=2, cross_attention_dim=12,
        attention_head_dim=2, norm_num_groups=4, down_block_types=down, up_block_types=up, **options,
    )  # fmt: skip


def filled(diffusers: ModuleType, kind: str, shapes: Shapes, added: dict[str, Tensor]) -> nn.Module:
    """Return diffusers' model of a kind with the weights of `checkpoint`, placed by its own converters."""
    from diffusers.loaders import single_file_utils as converters

    torch.manual_seed(1)  # norms, which the checkpoint leaves out
    weights = checkpoint(shapes, added)
    if kind == "sd3":
        model = diffusers.SD3Transformer2DModel(
            sample_size=8, num_layers=2, attention_head_dim=4, num_attention_heads=2, joint_attention_dim=12,
            caption_projection_dim=WIDTH, pooled_projection_dim=16, pos_embed_max_size=8,
            dual_attention_layers=(0,),
        )  # fmt: skip
        weights[f"{UNET}pos_embed"] = torch.zeros(1, 64, WIDTH)
        converted = converters.convert_sd3_transformer_checkpoint_to_diffusers(weights)
    else:
        model = unet(diffusers, kind)
        converted = converters.convert_ldm_unet_checkpoint(weights, model.config)
    wrong = model.load_state_dict(converted, strict=False).unexpected_keys
    assert not wrong and len(converted) >= len(shapes)
    return model.eval()


@torch.no_grad()
def predicted(model: nn.Module, kind: str) -> Tensor:
    random = torch.Generator().manual_seed(9)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    if kind == "sd3":
        return model(noise(1, 16, 8, 8), noise(1, 5, 12), noise(1, 16), torch.tensor([400.0]))[0]
    extra = {"text_embeds": noise(1, 8), "time_ids": noise(1, 6)} if kind == "sdxl" else None
    return model(noise(1, 4, 8, 8), 400, noise(1, 5, 12), added_cond_kwargs=extra)[0]


@pytest.mark.parametrize(
    ("kind", "layout", "pattern"),
    [
        ("sd15", "diffusers", EVERYTHING),
        ("sdxl", "diffusers", EVERYTHING),
        ("sd3", "diffusers", EVERYTHING),
        ("sd15", "kohya", ATTENTION),
        ("sdxl", "kohya", ATTENTION),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_diffusers_loads_the_file_to_the_merged_model(
    diffusers: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    kind: str, layout: str, pattern: re.Pattern,
) -> None:  # fmt: skip
    from diffusers import loaders

    shapes = MODELS[kind]()
    model = {path: shape for path, shape in shapes.items() if not path.startswith("clip_")}
    state = random_state(model, layers(model, pattern), rank=3, alpha=2, seed=6, size=0.05)
    save_lora(tmp_path / "lora.safetensors", state, layout, shapes, {})
    plain = filled(diffusers, kind, model, {})
    before = predicted(plain, kind)
    merged = predicted(filled(diffusers, kind, model, deltas(state)), kind)
    loader: Callable = {
        "sd15": loaders.StableDiffusionLoraLoaderMixin,
        "sdxl": loaders.StableDiffusionXLLoraLoaderMixin,
        "sd3": loaders.SD3LoraLoaderMixin,
    }[kind]
    options = {} if kind == "sd3" else {"unet_config": plain.config}
    read = loader.lora_state_dict(str(tmp_path), weight_name="lora.safetensors", **options)
    with caplog.at_level("WARNING"):
        if kind == "sd3":
            loader.load_lora_into_transformer(read, transformer=plain)
        else:
            loader.load_lora_into_unet(*read, unet=plain)
    assert "unexpected" not in caplog.text
    adapted = {name for name, module in plain.named_modules() if hasattr(module, "lora_A")}
    assert len(adapted) >= len(deltas(state))
    after = predicted(plain, kind)
    assert (merged - before).abs().max() > 0.01
    assert (after - merged).abs().max() <= 1e-5 * max(1.0, float(merged.abs().max()))


def test_diffusers_finds_every_layer_of_flux(
    diffusers: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its converter takes only Flux at full width, so the merged model is made by the names in the file."""
    from diffusers.loaders import FluxLoraLoaderMixin

    torch.manual_seed(2)
    model = diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=WIDTH, num_attention_heads=1,
        joint_attention_dim=12, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    ).eval()  # fmt: skip
    merged = copy.deepcopy(model)
    shapes = {path: shape for path, shape in MODELS["flux"]().items() if not path.startswith("clip_")}
    state = random_state(shapes, layers(shapes), rank=3, alpha=2, seed=6, size=0.05)
    save_lora(tmp_path / "lora.safetensors", state, "diffusers", shapes, {})
    tensors, _ = read_tensors(tmp_path / "lora.safetensors")
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            stem = key.removesuffix(".lora_A.weight")
            weight = merged.get_submodule(stem.removeprefix("transformer.")).weight
            weight.data += tensors[f"{stem}.lora_B.weight"] @ tensors[key]
    read = FluxLoraLoaderMixin.lora_state_dict(str(tmp_path), weight_name="lora.safetensors")
    with caplog.at_level("WARNING"):
        FluxLoraLoaderMixin.load_lora_into_transformer(read, network_alphas=None, transformer=model)
    assert "unexpected" not in caplog.text

    @torch.no_grad()
    def output(network: nn.Module) -> Tensor:
        random = torch.Generator().manual_seed(9)
        noise = [torch.randn(shape, generator=random) for shape in ((1, 4, 64), (1, 5, 12), (1, 16))]
        return network(
            noise[0], noise[1], noise[2], torch.tensor([0.4]), torch.zeros(4, 3), torch.zeros(5, 3),
            guidance=torch.tensor([3.5]),
        )[0]  # fmt: skip

    assert (output(model) - output(merged)).abs().max() <= 1e-5
    model.disable_adapters()
    assert (output(model) - output(merged)).abs().max() > 0.01
