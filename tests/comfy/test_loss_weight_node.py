"""RealismLossWeight in the real ComfyUI: the model's own schedule, the plot, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from devtools.server import ComfyServer, Run
from realism_core.plots.weights import weight_plot
from realism_core.training.objective import Objective
from realism_core.training.timesteps import stable_diffusion_sigmas
from realism_core.training.weighting import LossWeight
from tests.comfy.graphs import Graph, Node, done, failure, shown, status

Checkpoints = Callable[[ComfyServer, str], str]
MODELS = {"sd15_noclip": "eps", "koala_vpred": "v", "sd3": "flow", "flux": "flow"}
U = (np.arange(4096) + 0.5) / 4096


def model(graph: Graph, server: ComfyServer, checkpoints: Checkpoints, kind: str) -> Node:
    return graph.add("CheckpointLoaderSimple", ckpt_name=checkpoints(server, kind))


def report(server: ComfyServer, graph: Graph, node: Node) -> dict:
    id = graph.show(node["report"])
    return json.loads(shown(done(server.run(graph)), id)[0])


def discrete(u: np.ndarray) -> np.ndarray:
    """Stable Diffusion's and SDXL's sigma, from its betas."""
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    return np.exp(np.interp(u * 999, np.arange(1000), np.log((1 - kept) / kept) / 2))


SCHEDULES = {
    "sd15_noclip": discrete,
    "koala_vpred": discrete,
    "sd3": lambda u: 3 * u / (1 + 2 * u),
    "flux": lambda u: math.exp(1.15) / (math.exp(1.15) + 1 / u - 1),
}


def expected_scale(kind: str, sigma: np.ndarray, weight: Callable, mode: str = "exact") -> float:
    snr = ((1 - sigma) / sigma) ** 2 if MODELS[kind] == "flow" else sigma**-2.0
    own = {"eps": np.ones_like(snr), "v": snr / (1 + snr), "flow": (1 - sigma) ** 2}[MODELS[kind]]
    return 1 / np.mean(weight(snr) * (own if mode == "exact" else 1))


def p2(snr: np.ndarray) -> np.ndarray:
    return 1 / (1 + snr)


@pytest.mark.parametrize("kind", MODELS)
def test_the_models_own_prediction_and_schedule(
    server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    graph = Graph()
    loaded = model(graph, server, checkpoints, kind)
    ids = {
        mode: graph.show(graph.add("RealismLossWeight", model=loaded, mode=mode)["report"])
        for mode in ("exact", "factor")
    }
    run = done(server.run(graph))
    sigma = SCHEDULES[kind](U)
    for mode, id in ids.items():
        told = json.loads(shown(run, id)[0])
        assert told["objective"] == MODELS[kind] and told["sigma_data"] == 1
        assert told["noise"] == ("t" if MODELS[kind] == "flow" else "sigma")
        assert told["range"] == pytest.approx([sigma[0], sigma[-1]], rel=1e-4)
        assert told["scale"] == pytest.approx(expected_scale(kind, sigma, p2, mode), rel=1e-4)


@pytest.mark.parametrize(
    ("patch", "inputs", "objective", "sigma_data", "sigmas"),
    [
        ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}, "v", 1, discrete),
        ("ModelSamplingDiscrete", {"sampling": "x0", "zsnr": False}, "x0", 1, discrete),
        (
            "ModelSamplingContinuousEDM", {"sampling": "edm", "sigma_max": 80.0, "sigma_min": 0.01},
            "edm", 0.5, lambda u: 0.01 * 8000**u,
        ),
        (
            "ModelSamplingContinuousEDM", {"sampling": "eps", "sigma_max": 80.0, "sigma_min": 0.01},
            "eps", 1, lambda u: 0.01 * 8000**u,
        ),
        (
            "ModelSamplingContinuousEDM", {"sampling": "cosmos_rflow", "sigma_max": 80.0, "sigma_min": 0.01},
            "flow", 1, lambda u: 0.01 * 8000**u / (1 + 0.01 * 8000**u),
        ),
        (
            "ModelSamplingContinuousV", {"sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03},
            "v", 1, lambda u: 0.03 * (500 / 0.03) ** u,
        ),
        ("ModelSamplingSD3", {"shift": 5.0}, "flow", 1, lambda u: 5 * u / (1 + 4 * u)),
        ("ModelSamplingAuraFlow", {"shift": 1.73}, "flow", 1, lambda u: 1.73 * u / (1 + 0.73 * u)),
    ],
)  # fmt: skip
def test_patched_models_are_what_the_patch_makes_them(
    server: ComfyServer, checkpoints: Checkpoints, patch, inputs, objective, sigma_data, sigmas
) -> None:
    graph = Graph()
    patched = graph.add(patch, model=model(graph, server, checkpoints, "sd15_noclip"), **inputs)
    told = report(server, graph, graph.add("RealismLossWeight", model=patched))
    assert (told["objective"], told["sigma_data"]) == (objective, sigma_data)
    assert told["range"] == pytest.approx([sigmas(U[0]), sigmas(U[-1])], rel=1e-3)
    own = Objective(objective, sigma_data)
    core = own.prepare(LossWeight(), lambda u: u.new_tensor(sigmas(u.numpy())))
    assert told["scale"] == pytest.approx(core.scale, rel=1e-4)


def test_zero_terminal_snr(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    loaded = model(graph, server, checkpoints, "sd15_noclip")
    patched = graph.add("ModelSamplingDiscrete", model=loaded, sampling="v_prediction", zsnr=True)
    told = report(server, graph, graph.add("RealismLossWeight", model=patched))
    assert told["objective"] == "v" and told["range"][1] > 4000 and 0 < told["scale"] < 100


@pytest.mark.parametrize("inputs", [
    {}, {"kind": "min_snr", "snr_gamma": 3.0}, {"kind": "soft_min_snr", "k": 4.0}, {"kind": "debiased"},
    {"kind": "constant", "normalise": False}, {"timesteps": "logit_normal", "mean": -0.5, "std": 0.7},
])  # fmt: skip
def test_without_a_model_it_is_stable_diffusion(server: ComfyServer, inputs: dict) -> None:
    graph = Graph()
    told = report(server, graph, graph.add("RealismLossWeight", **inputs))
    places = U
    if "timesteps" in inputs:
        places = 1 / (1 + np.exp(-norm.ppf(U, -0.5, 0.7)))
    weight = {
        "p2": p2,
        "min_snr": lambda snr: np.minimum(snr, 3) / snr,
        "soft_min_snr": lambda snr: 1 / (1 + snr / 4),
        "debiased": lambda snr: snr**-0.5,
        "constant": np.ones_like,
    }[inputs.get("kind", "p2")]
    if inputs.get("normalise", True):
        scale = expected_scale("sd15_noclip", discrete(places), weight)
        assert told["scale"] == pytest.approx(scale, rel=1e-6)
    else:
        assert told["scale"] is None
    assert told["objective"] == "eps"
    # half of the weight lies below the noise where half of it lies
    share = np.cumsum(weight(discrete(places) ** -2.0))
    half = discrete(places)[np.searchsorted(share / share[-1], 0.5)]
    assert told["share_of_weight_below"]["50%"] == pytest.approx(half, rel=1e-3)


def test_weights_multiply(server: ComfyServer) -> None:
    graph = Graph()
    first = graph.add("RealismLossWeight", kind="min_snr", mode="factor", normalise=False)
    second = graph.add("RealismLossWeight", gamma=0.5, times=first)
    told = report(server, graph, graph.add("RealismLossWeight", kind="debiased", times=second))
    assert told["weight"] == (
        "debiased x P2 (k 1, gamma 0.5) x min-SNR (gamma 5), exact, mean 1 over uniform timesteps"
    )

    def weight(snr: np.ndarray) -> np.ndarray:
        return snr**-0.5 * (1 + snr) ** -0.5 * np.minimum(snr, 5) / snr

    assert told["scale"] == pytest.approx(expected_scale("sd15_noclip", discrete(U), weight), rel=1e-6)


def saved_plot(server: ComfyServer, run: Run, saver: Node) -> np.ndarray:
    (entry,) = run.entry["outputs"][saver.id]["images"]
    return np.asarray(Image.open(server.base / "output" / entry["subfolder"] / entry["filename"]))


def test_the_plot_is_the_cores(server: ComfyServer) -> None:
    graph = Graph()
    node = graph.add("RealismLossWeight", gamma=0.5)
    saver = graph.add("SaveImage", images=node["plot"], filename_prefix="weight/plot")
    found = saved_plot(server, done(server.run(graph)), saver)
    weight = LossWeight("p2", {"gamma": 0.5})
    plot = weight_plot(weight, Objective("eps"), stable_diffusion_sigmas, "Stable Diffusion 1.5 (no model)")
    assert np.abs(found - plot[0].numpy() * 255).max() <= 1


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_has_its_plot(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    graph = Graph()
    loaded = model(graph, server, checkpoints, kind)
    savers = [
        graph.add(
            "SaveImage", filename_prefix=f"weight/{kind}",
            images=graph.add("RealismLossWeight", model=loaded, mode=mode, timesteps="logit_normal")["plot"],
        )
        for mode in ("exact", "factor")
    ]  # fmt: skip
    run = done(server.run(graph))
    plots = [saved_plot(server, run, saver) for saver in savers]
    assert plots[0].shape == (400, 640, 3) and not np.array_equal(*plots)


@pytest.mark.parametrize(
    ("patch", "inputs", "weight", "words"),
    [
        (
            "ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": False}, {},
            "model BaseModel (EPS) has no known relation of signal to noise",
        ),
        ("ModelSamplingDiscrete", {"sampling": "img_to_img", "zsnr": False}, {}, "image to image models"),
        (
            "ModelSamplingSD3", {"shift": 3.0}, {"kind": "debiased", "mode": "factor"},
            "this flow model cannot be trained with debiased in mode factor",
        ),
        (
            "ModelSamplingDiscrete", {"sampling": "eps", "zsnr": True}, {"k": 0.0},
            "this noise prediction cannot be trained with P2 (k 0, gamma 1) in mode exact",
        ),
    ],
)  # fmt: skip
def test_what_a_model_cannot_honour_is_refused_by_name(
    server: ComfyServer, checkpoints: Checkpoints, patch: str, inputs: dict, weight: dict, words: str
) -> None:
    graph = Graph()
    patched = graph.add(patch, model=model(graph, server, checkpoints, "sd15_noclip"), **inputs)
    graph.show(graph.add("RealismLossWeight", model=patched, **weight)["report"])
    run = server.run(graph)
    assert status(run) == "execution_error" and words in failure(run)


def test_scaled_noise_is_refused(server: ComfyServer, checkpoints: Checkpoints) -> None:
    graph = Graph()
    patched = graph.add(
        "ModelNoiseScale", model=model(graph, server, checkpoints, "sd3"), noise_scale=8.0
    )
    graph.show(graph.add("RealismLossWeight", model=patched)["report"])
    assert "scales its noise by 8" in failure(server.run(graph))


def test_a_k_that_soft_min_snr_cannot_have(server: ComfyServer) -> None:
    graph = Graph()
    graph.show(graph.add("RealismLossWeight", kind="soft_min_snr", k=0.0)["report"])
    assert "k is 0, with which soft_min_snr is nowhere above 0" in failure(server.run(graph))


def test_the_inputs_are_those_of_the_contract(server: ComfyServer) -> None:
    order = server.object_info()["RealismLossWeight"]["input_order"]
    assert order["required"] == ["kind", "k", "gamma", "mode", "normalise", "timesteps"]
    assert order["optional"][0] == "model"


@pytest.mark.parametrize("kind", ["sd15_noclip", "koala_vpred", "sd3"])
def test_on_the_oldest_comfyui(old_server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    graph = Graph()
    loaded = model(graph, old_server, checkpoints, kind)
    told = report(old_server, graph, graph.add("RealismLossWeight", model=loaded))
    assert told["objective"] == MODELS[kind]
    assert told["scale"] == pytest.approx(expected_scale(kind, SCHEDULES[kind](U), p2), rel=1e-4)
