"""Small VAE files in the layout of TAESD, which ComfyUI loads as real ones, and the same networks in torch.

`pool`, `shifted` and `smooth` have weights written in closed form. Encoders average 8 x 8 pixels a channel,
decoders repeat each latent cell 8 x 8 times:
- pool: cells begin on multiples of 8, so decode(encode(x)) is the block mean;
- shifted: the same with cells that begin one pixel later;
- smooth: the decoder blurs by (1, 2, 1)/4 both ways after each doubling, so no cell has a hard edge.
`random` has seeded random weights: no good VAE, but one that uses every layer.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

KINDS = ("pool", "shifted", "smooth", "random")
WIDTH, LATENT = 64, 4
# latents this small pass the decoder's 3 tanh(z / 3) with a loss below 0.02 levels
SCALE = 0.1
ENCODER_BLOCKS = (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
ENCODER_HALVINGS = (2, 6, 10)
DECODER_BLOCKS = (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)
DECODER_DOUBLINGS = (7, 12, 17)


def vae_tensors(kind: str, seed: int = 0, latent: int = LATENT) -> dict[str, Tensor]:
    """Return the tensors of one VAE by name, float32; `latent` counts the channels of its latents."""
    shapes = _shapes(latent)
    if kind == "random":
        random = torch.Generator().manual_seed(seed)
        tensors = {
            name: torch.randn(shape, generator=random) * (2 / max(1, shape[1:].numel())) ** 0.5
            if len(shape) > 1
            else torch.zeros(shape)
            for name, shape in shapes.items()
        }
        # blocks that stay near the identity, and colours around grey
        for name in tensors:
            if ".conv.4." in name or name == "taesd_decoder.19.weight":
                tensors[name] *= 0.1
        tensors["taesd_decoder.19.bias"] += 0.5
        return tensors
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    centre = _taps({(1, 1): 1.0})
    below = _taps({(2, 2): 1.0}) if kind == "shifted" else centre
    above = _taps({(0, 0): 1.0}) if kind == "shifted" else centre
    mean = _taps({(row, column): 0.25 for row in (1, 2) for column in (1, 2)})
    side = torch.tensor([0.25, 0.5, 0.25])
    after = side[:, None] * side if kind == "smooth" else centre
    _pass(tensors, "taesd_encoder.0", below)
    for index in ENCODER_HALVINGS:
        _pass(tensors, f"taesd_encoder.{index}", mean)
    _pass(tensors, "taesd_encoder.14", SCALE * centre, -SCALE / 2)
    _pass(tensors, "taesd_decoder.1", centre / SCALE, 0.5)
    for index in DECODER_DOUBLINGS:
        _pass(tensors, f"taesd_decoder.{index}", after)
    _pass(tensors, "taesd_decoder.19", above)
    return tensors


def vae_file(kind: str, seed: int = 0, latent: int = LATENT) -> dict[str, Tensor]:
    """Return what a file of one VAE holds: its tensors, and the scale of its latents."""
    scale = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    return {**vae_tensors(kind, seed, latent), **scale}


def save_vae(kind: str, path: Path, seed: int = 0) -> Path:
    """Write one VAE as a safetensors file for ComfyUI's models/vae; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(vae_file(kind, seed), path)
    return path


class TinyVae:
    """One of the VAEs in torch, for tests without ComfyUI; called, it reconstructs pictures [B,H,W,3]."""

    downscale = 8

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.name = kind
        self._encoder, self._decoder = _encoder(), _decoder()
        tensors = vae_tensors(kind, seed)
        for part, network in (("taesd_encoder.", self._encoder), ("taesd_decoder.", self._decoder)):
            network.load_state_dict(
                {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
            )

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return latents [B,4,H/8,W/8] of pictures [B,H,W,3] in 0..1."""
        return self._encoder(images.movedim(-1, 1))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures [B,H,W,3] in 0..1."""
        return self._decoder(3 * torch.tanh(latents / 3)).clamp(0, 1).movedim(1, -1)

    def __call__(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH)
        )

    def forward(self, values: Tensor) -> Tensor:
        return torch.relu(values + self.conv(values))


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


def _encoder(latent: int = LATENT) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, WIDTH)]
    for index in range(1, 14):
        layers.append(_conv(WIDTH, WIDTH, 2, False) if index in ENCODER_HALVINGS else _Block())
    return nn.Sequential(*layers, _conv(WIDTH, latent))


def _decoder(latent: int = LATENT) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Identity(), _conv(latent, WIDTH), nn.ReLU()]
    for index in range(3, 19):
        if index in DECODER_BLOCKS:
            layers.append(_Block())
        else:
            doubling = index in DECODER_DOUBLINGS
            layers.append(_conv(WIDTH, WIDTH, bias=False) if doubling else nn.Upsample(scale_factor=2))
    return nn.Sequential(*layers, _conv(WIDTH, 3))


def _shapes(latent: int) -> dict[str, torch.Size]:
    shapes = {}
    for part, network in (("taesd_encoder.", _encoder), ("taesd_decoder.", _decoder)):
        with torch.device("meta"):
            values = network(latent).state_dict()
        shapes.update({part + name: value.shape for name, value in values.items()})
    return shapes


def _taps(weights: dict[tuple[int, int], float]) -> Tensor:
    kernel = torch.zeros(3, 3)
    for place, weight in weights.items():
        kernel[place] = weight
    return kernel


def _pass(tensors: dict[str, Tensor], name: str, kernel: Tensor, bias: float | None = None) -> None:
    """Let the three colours through a convolution, each by this kernel."""
    for channel in range(3):
        tensors[f"{name}.weight"][channel, channel] = kernel
        if bias is not None:
            tensors[f"{name}.bias"][channel] = bias
