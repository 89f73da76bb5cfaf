"""RealismLossTerm: a loss that keeps a training's pictures within the measures of photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..realism_core.irs.soft_reference import SoftReference, fit_soft_reference
from ..realism_core.training.realism_term import RealismLoss
from .comfy import Progress, io, schema
from .sockets import Profile as ProfileSocket
from .sockets import RealismTerm as TermSocket
from .sockets import count
from .training_model import TrainableModel
from .vae import LatentDecoder


@dataclass(frozen=True)
class RealismTerm:
    """A realism term as it goes from node to node, before a model is known.

    reference: of the crop's side, from `origin`; None with weight 0, for which nothing is fitted or decoded.
    crop: in pixels.
    """

    decoder: LatentDecoder
    reference: SoftReference | None
    origin: str
    crop: int
    weight: float
    low: float
    high: float
    tolerance: float

    def for_model(self, model: TrainableModel, latents: Iterable[Tensor] = ()) -> RealismLoss | None:
        """Return the term as the training loop's `extra_loss`, or None with weight 0.

        latents: [C,...] of all images, to check their sizes before the first step. To be called before
        layers are attached to the model, for it loads the VAE. Raises ValueError with the fix for a VAE of
        another model, or one without a gradient, and for images smaller than the crop.
        """
        if not self:
            return None
        decoder, cells = self.decoder, self.crop // self.decoder.downscale
        if decoder.channels != model.latent_channels:
            raise ValueError(
                f"vae has latents of {decoder.channels} channels, but the model's have "
                f"{model.latent_channels}: connect the VAE that belongs to the model to Realism Loss Term."
            )
        for latent in latents:
            self._check_latent(latent)
        model.load_beside(decoder.vae.patcher)
        decoder.check(self.crop)

        def decode(x0: Tensor) -> Tensor:
            model.load_beside(decoder.vae.patcher)
            return decoder(model.latents_out(x0))

        return RealismLoss(decode, self.reference, cells, self.weight, self.low, self.high, self.tolerance)

    def _check_latent(self, latent: Tensor) -> None:
        side = self.decoder.downscale
        height, width = (length * side for length in latent.shape[-2:])
        if self.crop > min(height, width):
            raise ValueError(
                f"crop is {self.crop} pixels, but an image to train on is {width} x {height}: set it to "
                f"{min(height, width)} or less in Realism Loss Term."
            )
        if latent.ndim == 4 and latent.shape[1] > 1:
            raise ValueError(
                f"latents hold a video of {latent.shape[1]} latent frames, but the realism term judges "
                "single pictures: train it without the term, or train on pictures."
            )

    def __bool__(self) -> bool:
        """Return whether there is anything to add: not with weight 0."""
        return self.reference is not None

    def describe(self) -> str:
        """Return the term in words and numbers."""
        if not self:
            return "no realism term (weight 0)"
        return (
            f"realism term, weight {self.weight:g}, on crops of {self.crop} pixels against {self.origin} "
            f"({self.reference.count} crops), SNR {self.low:g} to {self.high:g}, tolerance {self.tolerance:g}"
        )

    def to_dict(self) -> dict:
        """Return all that determines the term but for the VAE, JSON-ready; {} with weight 0."""
        if not self:
            return {}
        return {
            "weight": self.weight,
            "crop": self.crop,
            "snr_low": self.low,
            "snr_high": self.high,
            "tolerance": self.tolerance,
            "origin": self.origin,
            "reference": self.reference.to_dict(),
        }


class RealismLossTerm(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismLossTerm",
            display_name="Realism Loss Term",
            category="realism/train",
            description=(
                "A second loss for Realism Train LoRA: a crop of what the model predicts is decoded, and "
                "where its edges, contrast and detail lie outside those of photographs, on either side, it "
                "is pulled back. Connect photographs, or a profile."
            ),
            search_aliases=["IRS loss", "realism loss", "perceptual loss", "regularisation"],
            is_input_list=True,
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model to be trained."),
                io.Float.Input(
                    "weight", default=0.1, min=0.0, max=1000.0, step=0.001, round=False,
                    tooltip="Lambda, the factor of the term; 0 switches it off and costs nothing.",
                ),
                io.Int.Input(
                    "crop", default=256, min=16, max=4096, step=8,
                    tooltip="Side in pixels of the piece that is decoded: a multiple of the VAE's 8 (or 16), "
                    "no larger than the images. With a profile 64, 128 or 256.",
                ),
                io.Float.Input(
                    "snr_low", default=5.0, min=0.001, max=100000.0, step=0.1, round=False,
                    tooltip="Up to this ratio of signal to noise the term is off: what is predicted there is "
                    "an average of many pictures, and smooth for good reason.",
                ),
                io.Float.Input(
                    "snr_high", default=50.0, min=0.001, max=100000.0, step=0.1, round=False,
                    tooltip="From this ratio of signal to noise on the term counts in full.",
                ),
                io.Float.Input(
                    "tolerance", default=1.0, min=0.001, max=100.0, step=0.05, round=False,
                    tooltip="How far from the photographs' mean is free, in their spreads.",
                ),
                io.Image.Input(
                    "photographs", optional=True,
                    tooltip="Photographs to pull towards, of any sizes, at the scale of the images: 20 and "
                    "more. Best passed through VAE Encode and Decode first. Instead of a profile.",
                ),
                ProfileSocket.Input(
                    "profile", optional=True,
                    tooltip="A fitted or shipped profile to pull towards, instead of photographs.",
                ),
            ],
            outputs=[
                TermSocket.Output(display_name="term", tooltip="For realism_term of Realism Train LoRA."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, vae, weight, crop, snr_low, snr_high, tolerance, photographs=None, profile=None
    ) -> io.NodeOutput:
        (vae,), (weight,), (crop,) = vae, weight, crop
        decoder = LatentDecoder(vae)
        if crop % decoder.downscale:
            raise ValueError(
                f"crop is {crop} pixels, but this VAE makes {decoder.downscale} of each latent cell: use "
                f"{max(crop // decoder.downscale, 1) * decoder.downscale}, or another multiple."
            )
        if (photographs is None) == (profile is None):
            both = "both connected" if profile is not None else "both left open"
            raise ValueError(
                f"photographs and profile are {both}: connect one of them, for what the pictures are to be "
                "held against."
            )
        reference, origin = None, ""
        if weight != 0 and profile is not None:
            reference, origin = profile[0].soft_reference(crop), f"profile {profile[0].name}"
        elif weight != 0:
            reference = _fitted(photographs, crop)
            origin = f"{sum(map(count, photographs))} photographs"
        term = RealismTerm(
            decoder, reference, origin, crop, weight, snr_low[0], snr_high[0], tolerance[0]
        )
        _check_numbers(term)
        return io.NodeOutput(term)


def _fitted(photographs: Sequence[Tensor], crop: int) -> SoftReference:
    progress = Progress(sum(map(count, photographs)))

    def one_by_one() -> Iterator[Tensor]:
        for batch in photographs:
            for index in range(len(batch)):
                yield batch[index : index + 1]
                progress.step()

    try:
        return fit_soft_reference(one_by_one(), crop)
    except ValueError as error:
        raise ValueError(f"photographs with crop {crop}: {error}") from None


def _check_numbers(term: RealismTerm) -> None:
    """Raise what the core says of wrong numbers here, not when the training begins."""
    if term:
        RealismLoss(term.decoder, term.reference, 1, term.weight, term.low, term.high, term.tolerance)


NODES = [RealismLossTerm]
