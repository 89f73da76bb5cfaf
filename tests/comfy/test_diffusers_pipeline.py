"""A LoRA trained in ComfyUI, in diffusers' pipeline of the same checkpoint: the same latents and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from devtools.client import Run
from devtools.server import ComfyServer
from realism_core.training.lora_file import save_lora
from tests import diffusers_peer
from tests.comfy.graphs import Graph, Node, done
from tests.given import given
from tests.lora_states import layers, random_state, tiny_shapes
from tests.tiny_layouts import CLIP_LAYERS, CLIP_TOKENS, CLIP_WIDTH, CLIP_WORDS, UNET_WIDTH
from tests.tiny_models import CONDITIONING, tiny_checkpoint

Checkpoints = Callable[[ComfyServer, str], str]
LAYOUTS_OF_BOTH = ["diffusers", "kohya"]
TEXT_AND_QUERIES = re.compile(r"clip_l\..*\.layers\..*(_proj|fc[12])|.*\.to_q")
PROMPT, NEGATIVE = "a lighthouse in the morning", "blurry"
SEED, STEPS, CFG, SIDE = 5, 4, 3.0, 64
LATENT_SCALE = 0.18215  # of SD 1.5's latents in the network, which ComfyUI takes away when it saves them


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    return diffusers_peer.diffusers()


@pytest.fixture(scope="module")
def exact_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """ComfyUI with the text encoder in single precision.

    Without, it rounds the encoder's weights to half precision once a LoRA is added: 2e-4 of the latents.
    """
    python = given("REALISM_COMFYUI_PY", "comfy")
    base, folder = tmp_path_factory.mktemp("exact"), given("REALISM_COMFYUI_DIR", "comfy")
    with ComfyServer(base, {}, folder, python, ("--fp32-text-enc",)) as running:
        yield running


@pytest.fixture(scope="module")
def pipeline(diffusers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stable Diffusion of the tiny checkpoint's weights, every part placed by diffusers' own converters."""
    from diffusers.loaders import single_file_utils as converters
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    weights = {name: tensor.float() for name, tensor in load_file(tiny_checkpoint("sd15")).items()}
    width, _ = CONDITIONING["sd15"]
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIDE // 8, block_out_channels=(UNET_WIDTH,), layers_per_block=1, attention_head_dim=8,
        cross_attention_dim=width, down_block_types=("CrossAttnDownBlock2D",), mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
    )  # fmt: skip
    unet.load_state_dict(converters.convert_ldm_unet_checkpoint(weights, unet.config))
    folder = tmp_path_factory.mktemp("clip")
    CLIPTextConfig(
        vocab_size=CLIP_WORDS, hidden_size=CLIP_WIDTH, intermediate_size=4 * CLIP_WIDTH,
        num_hidden_layers=CLIP_LAYERS, num_attention_heads=12, max_position_embeddings=CLIP_TOKENS,
    ).save_pretrained(folder)  # fmt: skip
    text = converters.create_diffusers_clip_model_from_ldm(
        CLIPTextModel, weights, config=str(folder), torch_dtype=torch.float32, local_files_only=True
    )
    # the same TAESD, whose layers are counted from the clamp in ComfyUI and from behind it in diffusers
    vae = diffusers.AutoencoderTiny(scaling_factor=LATENT_SCALE)
    parts = {"taesd_encoder": ("encoder", 0), "taesd_decoder": ("decoder", 1)}
    named = {}
    for name, tensor in weights.items():
        _, part, *rest = name.split(".", 3)
        if part in parts and name.startswith("first_stage_model."):
            coder, first = parts[part]
            named[f"{coder}.layers.{int(rest[0]) - first}.{rest[1]}"] = tensor
    vae.load_state_dict(named)
    made = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, unet=unet, safety_checker=None, feature_extractor=None,
        tokenizer=CLIPTokenizer.from_pretrained(
            str(Path(given("REALISM_COMFYUI_DIR", "comfy")) / "comfy" / "sd1_tokenizer"),
            model_max_length=CLIP_TOKENS,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing",
            steps_offset=1,
        ),
        requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipe: Any, kind: str) -> Tensor:
    """Return the pipeline's latents or pictures from ComfyUI's noise of SEED."""
    pipe.scheduler.set_timesteps(STEPS)
    noise = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(SEED))
    first = pipe.scheduler.sigmas[0]
    # at the noisiest step ComfyUI scales the noise so that picture and noise have variance 1 together
    start = noise * (1 + first**2) ** 0.5 / pipe.scheduler.init_noise_sigma
    return pipe(
        PROMPT, negative_prompt=NEGATIVE, latents=start, num_inference_steps=STEPS, guidance_scale=CFG,
        height=SIDE, width=SIDE, output_type=kind,
    ).images  # fmt: skip


class Drawing:
    """What ComfyUI made with one model: nodes in a graph, then latents as the network has them, and 8 bit."""

    def __init__(self, graph: Graph, model: list, parts: dict, name: str) -> None:
        latent = graph.add("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1)
        made = graph.add(
            "KSampler", model=model, positive=parts["positive"], negative=parts["negative"], seed=SEED,
            latent_image=latent, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="simple", denoise=1.0,
        )  # fmt: skip
        pixels = graph.add("VAEDecode", samples=made, vae=parts["vae"])
        self.latents = graph.add("SaveLatent", samples=made, filename_prefix=f"pipeline/{name}")
        self.pictures = graph.add("SaveImage", images=pixels, filename_prefix=f"pipeline/{name}")

    def read(self, server: ComfyServer, run: Run) -> tuple[Tensor, np.ndarray]:
        def file(node: Node, key: str) -> Path:
            entry = run.entry["outputs"][node.id][key][0]
            return server.base / "output" / entry["subfolder"] / entry["filename"]

        latents = load_file(file(self.latents, "latents"))["latent_tensor"] * LATENT_SCALE
        with Image.open(file(self.pictures, "images")) as picture:
            return latents, np.asarray(picture)


def far(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def prompts(graph: Graph, clip: list, vae: list) -> dict:
    texts = (("positive", PROMPT), ("negative", NEGATIVE))
    return {"vae": vae, **{name: graph.add("CLIPTextEncode", clip=clip, text=text) for name, text in texts}}


def check(
    pipeline: Any, file: Path, plain: Tensor, learned: Tensor, picture: np.ndarray,
    said: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Compare the pipeline without, with and again without the file to ComfyUI's latents and its picture."""
    assert far(learned, plain) > 0.01
    assert far(drawn(pipeline, "latent"), plain) <= 1e-5
    with said.at_level("WARNING"):
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    try:
        assert "unexpected keys" not in said.text
        halves = [key for key in load_file(file) if key.endswith(("lora_A.weight", "down.weight"))]
        parts = [*pipeline.unet.modules(), *pipeline.text_encoder.modules()]
        assert sum(hasattr(module, "lora_A") for module in parts) == len(halves) > 20
        assert far(drawn(pipeline, "latent"), learned) <= 1e-5
        # ComfyUI's file holds the whole numbers below
        rest = 255 * drawn(pipeline, "np")[0] - picture
        assert rest.min() > -0.01 and rest.max() < 1.01
    finally:
        pipeline.unload_lora_weights()
    assert far(drawn(pipeline, "latent"), plain) <= 1e-5


@pytest.mark.parametrize("layout", LAYOUTS_OF_BOTH)
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_the_pipeline_draws_what_the_trained_model_draws(
    server: ComfyServer, checkpoints: Checkpoints, pipeline: Any, caplog: pytest.LogCaptureFixture,
    targets: str, layout: str,
) -> None:  # fmt: skip
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, "sd15"))
    parts = prompts(graph, loader[1], loader[2])
    latents = graph.add("VAEEncode", pixels=graph.add("TestImages", batch=2, kind="soft"), vae=loader[2])
    trained = graph.add(
        "RealismTrainLoRA", model=loader[0], positive=parts["positive"], latents=latents, targets=targets,
        learning_rate=1e-2,
    )  # fmt: skip
    name = f"pipeline-{targets}-{layout}"
    graph.add("RealismSaveLoRA", lora=trained["lora"], layout=layout, filename_prefix=f"loras/{name}")
    before = Drawing(graph, loader[0], parts, "plain")
    after = Drawing(graph, trained["model"], parts, name)
    run = done(server.run(graph))
    (file,) = (server.base / "output" / "loras").glob(f"{name}_*.safetensors")
    check(pipeline, file, before.read(server, run)[0], *after.read(server, run), caplog)


@pytest.mark.parametrize("layout", LAYOUTS_OF_BOTH)
def test_the_pipeline_reads_the_text_encoders_part_too(
    exact_server: ComfyServer, checkpoints: Checkpoints, pipeline: Any, caplog: pytest.LogCaptureFixture,
    layout: str,
) -> None:  # fmt: skip
    shapes = tiny_shapes("sd15")
    state = random_state(shapes, layers(shapes, TEXT_AND_QUERIES), rank=4, alpha=3, seed=8, size=0.003)
    file = exact_server.base / "models" / "loras" / f"pipeline-text-{layout}.safetensors"
    save_lora(file, state, layout, shapes, {})
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(exact_server, "sd15"))
    lora = graph.add(
        "LoraLoader", model=loader[0], clip=loader[1], lora_name=file.name, strength_model=1.0,
        strength_clip=1.0,
    )  # fmt: skip
    before = Drawing(graph, loader[0], prompts(graph, loader[1], loader[2]), "plain")
    after = Drawing(graph, lora[0], prompts(graph, lora[1], loader[2]), "text")
    run = done(exact_server.run(graph))
    check(pipeline, file, before.read(exact_server, run)[0], *after.read(exact_server, run), caplog)
