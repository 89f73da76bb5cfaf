"""Models in diffusers' folder layout: their noise against diffusers' schedulers, their LoRAs in diffusers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from realism_core.training.data import Dataset
from realism_core.training.diffusers_data import PipelineEncoder
from realism_core.training.diffusers_model import PIPELINES, denoiser_of, load_pipeline, model_kind
from realism_core.training.diffusers_names import comfyui_shapes, comfyui_state
from realism_core.training.fingerprints import layer_shapes
from realism_core.training.layouts import to_layout
from realism_core.training.loop import train
from realism_core.training.lora import LoraConfig, attach
from realism_core.training.lora_file import load_lora, save_lora
from realism_core.training.settings import TrainSettings
from tests import diffusers_peer
from tests.core.tiny_pipelines import folder_of
from tests.lora_states import deltas

KINDS = tuple(PIPELINES.values())
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def diffusers() -> Iterator[ModuleType]:
    with diffusers_peer.without_torchvision():
        yield diffusers_peer.diffusers()


@pytest.fixture(scope="module")
def folders(diffusers: ModuleType, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: folder_of(diffusers, kind, root / kind) for kind in KINDS}


def examples_of(pipeline, kind: str, count: int = 3) -> tuple[list, dict]:
    encoder = PipelineEncoder(pipeline, kind)
    random = torch.Generator().manual_seed(8)
    made = []
    for number in range(count):
        picture = torch.randint(0, 256, (64, 128, 3), generator=random, dtype=torch.uint8)
        made.append(
            encoder.example(picture, encoder.words("a photo " + "ab"[number % 2]), (70, 140), (3, 6))
        )
    empty = encoder.empty()
    encoder.close()
    return made, empty


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_predicts_is_what_diffusers_gives_at_that_step(folders: dict, kind: str) -> None:
    pipeline = load_pipeline(folders[kind])
    examples, _ = examples_of(pipeline, kind)
    denoiser, scheduler = denoiser_of(pipeline), pipeline.scheduler
    x0 = torch.stack([example.latent for example in examples])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    u = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    sigma = denoiser.sigmas(u)
    ours = denoiser.predict(
        denoiser.objective.noisy(x0, noise, sigma),
        sigma.float(),
        [example.conditioning for example in examples],
    )
    words = torch.stack([example.conditioning["words"] for example in examples])
    pooled = [example.conditioning.get("pooled") for example in examples]
    with torch.no_grad():
        if kind in ("sd", "sdxl"):
            steps = torch.tensor([0, 400, 999])
            extra = None
            if kind == "sdxl":
                sizes = torch.tensor([[70.0, 140, 3, 6, 64, 128]] * 3)
                extra = {"text_embeds": torch.stack(pooled), "time_ids": sizes}
            noisy = scheduler.add_noise(x0, noise, steps)
            theirs = pipeline.unet(noisy, steps, words, added_cond_kwargs=extra)[0]
        else:
            shift = 3.0 if kind == "sd3" else float(torch.tensor(1.15).exp())
            t = (shift * u / (1 + (shift - 1) * u)).float().view(-1, 1, 1, 1)
            noisy = (1 - t) * x0 + t * noise
            if kind == "sd3":
                theirs = pipeline.transformer(noisy, words, torch.stack(pooled), 1000 * t.flatten())[0]
            else:
                packed = pipeline._pack_latents(noisy, 3, 16, 8, 16)
                places = pipeline._prepare_latent_image_ids(3, 4, 8, "cpu", torch.float32)
                theirs = pipeline.transformer(
                    packed, words, torch.stack(pooled), t.flatten(), places, torch.zeros(words.shape[1], 3),
                    guidance=torch.full((3,), 3.5),
                )[0]  # fmt: skip
                theirs = pipeline._unpack_latents(theirs, 64, 128, 8)
    assert theirs.std() > 0.05
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_has_a_path_of_comfyui(folders: dict, kind: str) -> None:
    pipeline = load_pipeline(folders[kind])
    module = denoiser_of(pipeline).module
    theirs = layer_shapes(dict(module.named_parameters()))
    with attach(module, LoraConfig(2, 2, targets="all", clamp_rank=True), 0) as adapters:
        random = torch.Generator().manual_seed(0)
        for parameter in adapters.parameters():
            parameter.data.normal_(generator=random)
        shapes = comfyui_shapes(kind, theirs)
        state = comfyui_state(kind, adapters.state_dict(), shapes)
        made = deltas(state)
        assert len(adapters.layers) == len([shape for shape in theirs.values() if len(shape) > 1])
        # as many numbers change, by as much: layers are put together, none is lost or doubled
        ours = sum(float(delta.square().sum()) for delta in made.values())
        own = deltas(adapters.state_dict())
        assert ours == pytest.approx(sum(float(delta.square().sum()) for delta in own.values()), rel=1e-6)
        again = to_layout(state, "diffusers", shapes)
        assert len([key for key in again if "down.weight" in key or "lora_A" in key]) == len(own)


def generated(pipeline, kind: str, examples: list) -> Tensor:
    """Return what the network predicts, through diffusers alone."""
    denoiser = denoiser_of(pipeline)
    x0 = torch.stack([example.latent for example in examples])
    with torch.no_grad():
        return denoiser.predict(
            x0, torch.full((len(x0),), 0.7), [example.conditioning for example in examples]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_file_gives_the_same_output_in_diffusers(
    folders: dict, kind: str, tmp_path: Path
) -> None:
    pipeline = load_pipeline(folders[kind])
    examples, empty = examples_of(pipeline, kind)
    denoiser = denoiser_of(pipeline)
    before = generated(pipeline, kind, examples)
    shapes = comfyui_shapes(kind, layer_shapes(dict(denoiser.module.named_parameters())))
    settings = TrainSettings(4, batch_size=2, learning_rate=0.05, condition_dropout=0.3, recompute=True)
    with attach(denoiser.module, LoraConfig(2, 4, targets="attention"), 0) as adapters:
        result = train(denoiser, adapters, Dataset(examples), settings, empty_conditioning=empty)
        trained = generated(pipeline, kind, examples)
        assert not adapters.idle
        state = comfyui_state(kind, result.state, shapes)
    assert torch.equal(generated(pipeline, kind, examples), before)
    assert (trained - before).abs().max() > 1e-3
    for layout in ("comfyui", "kohya", "diffusers"):
        save_lora(tmp_path / f"{layout}.safetensors", state, layout, shapes, {})
        read = load_lora(tmp_path / f"{layout}.safetensors", shapes).state
        for path, delta in deltas(state).items():
            assert (deltas(read)[path] - delta).abs().max() <= 1e-6 * max(1.0, float(delta.abs().max())), (
                path
            )
    fresh = load_pipeline(folders[kind])
    for layout in ("diffusers", "kohya") if kind in ("sd", "sdxl") else ("diffusers",):
        fresh.load_lora_weights(str(tmp_path), weight_name=f"{layout}.safetensors")
        loaded = generated(fresh, kind, examples)
        assert (loaded - trained).abs().max() <= 1e-5 * max(1.0, float(trained.abs().max())), layout
        fresh.unload_lora_weights()


def test_v_prediction_and_a_schedule_that_ends_in_noise(diffusers, folders: dict, tmp_path: Path) -> None:
    shutil.copytree(folders["sd"], tmp_path / "v")
    diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    ).save_pretrained(tmp_path / "v" / "scheduler")  # fmt: skip
    index = tmp_path / "v" / "model_index.json"
    index.write_text(index.read_text().replace("DDPMScheduler", "DDIMScheduler"))
    denoiser = denoiser_of(load_pipeline(tmp_path / "v"))
    assert denoiser.objective.kind == "v"
    sigmas = denoiser.sigmas(torch.linspace(0, 1, 50, dtype=torch.float64))
    assert torch.isfinite(sigmas).all() and bool((sigmas.diff() > 0).all()) and sigmas[-1] > 1000


REFUSED = {
    "is not there": lambda path: path / "gone",
    "is a file: give a folder in diffusers' layout": lambda path: path / "model_index.json",
    "has no model_index.json: give the folder of the whole pipeline": lambda path: path / "unet",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_pipeline_is_refused(folders: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        model_kind(REFUSED[text](folders["sd"]))


def test_other_pipelines_pickles_and_damage_are_refused(folders: dict, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders["sd"], copy)
    index = copy / "model_index.json"
    whole = index.read_text()
    index.write_text(json.dumps({**json.loads(whole), "_class_name": "StableDiffusionInpaintPipeline"}))
    with pytest.raises(
        ValueError, match="is a StableDiffusionInpaintPipeline, which cannot be trained here"
    ):
        model_kind(copy)
    index.write_text(whole[:20])
    with pytest.raises(ValueError, match="model_index.json is damaged"):
        model_kind(copy)
    index.write_text(whole)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="copy cannot be read by diffusers: "):
        load_pipeline(copy)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"unet/diffusion_pytorch_model.bin is a pickle.*as safetensors"):
        load_pipeline(copy)


def test_a_missing_package_is_named_with_its_cure(folders: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"diffusers is needed .* pip install realism-kit\[train\]"):
        load_pipeline(folders["sd"])
