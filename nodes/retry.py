"""RealismRetry, "Sample Until Real": sample, decode and score with fresh seeds until a rule holds."""

from __future__ import annotations

import logging

import torch

from ..realism_core.evidence.columns import COLUMNS
from ..realism_core.gate import real_of
from ..realism_core.gate.retry import RETRY_RULES, SlotSearch
from ..realism_core.irs import Profile, real_bands
from ..realism_core.saving import to_pillow
from .attempts import SEEDS, Kept, preview, score_kept, slot_values, state, summary
from .comfy import (
    Interrupted,
    Progress,
    decode,
    io,
    sample,
    samplers,
    schedulers,
    schema,
    share_of_progress,
    show_text,
    ui,
)
from .scorer import PROFILE_TIP
from .sockets import Profile as ProfileSocket
from .sockets import Scores, band_inputs

# a model whose first attempts are all NaN is not going to mend
HOPELESS = 3


class RealismRetry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismRetry",
            display_name="Sample Until Real",
            category="realism/gate",
            description=(
                "Samples, decodes and scores again with fresh seeds, inside one run, until every picture "
                "meets the rule or the attempts are used up, and gives the best attempt of each picture. "
                "A picture is bit for bit what KSampler and VAE Decode give for its seed."
            ),
            search_aliases=["retry until good", "best of n", "resample", "ksampler loop", "auto reroll"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with; any that KSampler takes."),
                io.Conditioning.Input("positive", tooltip="What the pictures are to show."),
                io.Conditioning.Input("negative", tooltip="What they are not to show."),
                io.Latent.Input(
                    "latent",
                    tooltip="The latents to start from, as for KSampler. Of a batch every place is searched "
                    "for; all are sampled again while one of them has not passed.",
                ),
                io.Vae.Input("vae", tooltip="Decodes each attempt, for scoring and for the result."),
                io.Int.Input(
                    "seed", default=0, min=0, max=SEEDS - 1, control_after_generate=True,
                    tooltip="The seed of the first attempt; each further attempt takes the next one.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps an attempt."),
                io.Float.Input(
                    "cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01,
                    tooltip="How closely the prompt is followed (classifier-free guidance).",
                ),
                io.Combo.Input("sampler_name", options=samplers(), tooltip="As for KSampler."),
                io.Combo.Input("scheduler", options=schedulers(), tooltip="As for KSampler."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="How much of the latent is made anew; below 1 its composition stays.",
                ),
                io.String.Input(
                    "metric", default="typicality",
                    tooltip="The score to judge by, any column of Realism Score that needs no VAE: "
                    "typicality, p_photo, irs, radius_... A wrong name lists them all.",
                ),
                io.Combo.Input(
                    "rule", options=list(RETRY_RULES), default="threshold",
                    tooltip="threshold: value or better. band: from low to high. profile_band: inside the "
                    "middle 90 % of the profile's photographs.",
                ),
                io.Float.Input(
                    "value", default=0.15, min=-1e9, max=1e9, step=0.001, round=False,
                    tooltip="The threshold.",
                ),
                io.Int.Input(
                    "attempts", default=8, min=1, max=10000,
                    tooltip="At most so many attempts; fewer if the rule holds before.",
                ),
                ProfileSocket.Input(
                    "profile", optional=True,
                    tooltip=PROFILE_TIP + " Its definition is the one that scores.",
                ),
                *band_inputs(),
                io.Combo.Input(
                    "keep", options=["high", "low"], default="high", optional=True,
                    tooltip="Which end is better, for threshold.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="The best attempt of each place of the batch."
                ),
                io.Latent.Output(display_name="latents", tooltip="The latents of these pictures."),
                Scores.Output(
                    display_name="scores",
                    tooltip="Their scores, as from Realism Score, with the column `attempt`.",
                ),
                io.Int.Output(
                    display_name="attempts_used", tooltip="How many attempts were made."
                ),
                io.String.Output(
                    display_name="seeds",
                    tooltip="The seed of each picture, separated by commas: KSampler with this seed and the "
                    "same latent gives that picture again.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, negative, latent, vae, seed, steps, cfg, sampler_name, scheduler, denoise,
        metric, rule, value, attempts, profile=None, low=None, high=None, keep="high",
    ) -> io.NodeOutput:  # fmt: skip
        profile = profile or Profile.shipped("reference")
        metric = metric.strip()
        if metric not in COLUMNS:
            raise ValueError(f"metric: there is no column {metric!r}; use one of {', '.join(COLUMNS)}.")
        real = real_of(metric, real_bands(profile)) if rule == "profile_band" else None
        if denoise == 0 and attempts > 1:
            raise ValueError(
                "denoise is 0, which leaves the latent as it is, so that all attempts would be equal: raise "
                "denoise, or set attempts to 1."
            )
        kept = Kept(latent)
        search = SlotSearch(kept.slots, rule, value, low, high, keep, real)
        progress = Progress(attempts)
        used = 0

        def told() -> str:
            return state(search, used, attempts, metric, seed)

        try:
            while used < attempts and not search.done:
                show_text(cls.hidden.unique_id, told())
                with share_of_progress(used, attempts):
                    made = sample(
                        model, (seed + used) % SEEDS, steps, cfg, sampler_name, scheduler, positive, negative,
                        latent, denoise,
                    )  # fmt: skip
                    images = decode(vae, made)
                better = search.offer(used, *slot_values(images, kept.slots, metric, profile, progress.check))
                for slot in better:
                    kept.take(slot, made["samples"], images)
                rest = {name: value for name, value in made.items() if name != "samples"}
                # not held while the next attempt is made
                del made, images
                used += 1
                if used == min(HOPELESS, attempts) and not any(search.usable):
                    raise ValueError(
                        f"the pictures of all {used} attempts are NaN: check model and vae (a VAE in fp16 "
                        "often overflows: start ComfyUI with --fp32-vae or --bf16-vae)."
                    )
                progress.step(1, to_pillow(preview(kept.picture(better[0]))) if better else None)
            images = kept.images() if all(search.usable) else kept.images().nan_to_num(0.0)
            scores = score_kept(images, search, profile, progress.check)
        except Interrupted:
            text = f"Sample Until Real was cancelled in {told()}"
            logging.info(text)
            show_text(cls.hidden.unique_id, text)
            raise
        text = summary(search, used, attempts, metric, seed)
        show_text(cls.hidden.unique_id, text)
        seeds = ", ".join(str((seed + attempt) % SEEDS) for attempt in search.attempts)
        faces = torch.stack([preview(kept.picture(slot)) for slot in range(kept.slots)])
        return io.NodeOutput(
            images,
            {**rest, "samples": kept.samples()},
            scores,
            used,
            seeds,
            ui={**ui.PreviewImage(faces, cls=cls).as_dict(), "text": (text,)},
        )


NODES = [RealismRetry]
