"""Realism Conditioner in the real ComfyUI: attention coupling on four layouts."""

from __future__ import annotations

import pytest
import torch

from devtools.server import ComfyServer
from realism_core.conditioning.coupling import at_grid
from realism_core.conditioning.masks import SemanticMask
from realism_core.conditioning.vocabulary import LABELS
from tests.comfy.conditioned import FACE, HAIR_EVERYWHERE, TALL, WIDE, Setting, value
from tests.comfy.graphs import failure, shown, status
from tests.comfy.searches import Checkpoints
from tests.core.faces import face

LAYOUTS = ("sd15_noclip", "koala_vpred", "sd3", "flux")
JOINT = ("sd3", "flux")
# one cell of the network's first attention over the context, in latent pixels
CELL = {"sd15_noclip": 1, "koala_vpred": 2, "sd3": 2, "flux": 2}


@pytest.fixture(params=LAYOUTS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_regions_that_are_the_whole_picture_are_plain_tokens(
    server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    """The MODEL of before, given the same longer contexts, shows their tokens to all pixels."""
    here = Setting(server, checkpoints, kind)
    words = "Blond_Hair, Wavy_Hair"
    coupled = here.conditioned(words, here.mask(HAIR_EVERYWHERE))
    one, plain = here.of(coupled), here.of(coupled, model=here.model)
    same = here.difference(plain, one)
    apart = here.difference(one, here.sampled(here.model, here.positive))
    # the null tokens of the negative side are seen by nobody
    other = here.difference(
        here.sampled(coupled["model"], coupled["negative"]), here.sampled(here.model, here.negative)
    )
    globally = here.difference(plain, here.of(here.conditioned(words)))
    run = here.run()
    assert value(run, same)["relative"] <= 1e-5
    assert value(run, globally)["relative"] <= 1e-5
    assert value(run, other)["relative"] <= 1e-5
    assert value(run, apart)["relative"] > 1e-3


def test_a_phrase_reaches_its_region_only(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    here = Setting(server, checkpoints, kind)
    mask = here.mask(FACE)
    results = []
    for place, words in enumerate(("Blond_Hair, Smiling", "Black_Hair, Smiling")):
        probed = here.graph.add("TestProbe", model=here.model, name=f"{kind}{place}", kind="see")
        results.append(here.of(here.conditioned(words, mask, model=probed), cfg=3.0))
    hair = here.graph.add("RealismFaceMaskParts", mask=mask["mask"], parts="hair")
    whole = here.difference(*results, mask=hair["mask"])
    probes = here.graph.add("TestProbed", a=results[0], b=results[1], first=f"{kind}0", second=f"{kind}1").id
    run = here.run()
    seen = value(run, probes)
    # the guidance of both sides is one call of the network
    assert seen["calls"] == [[2], [2]]
    changed = torch.tensor(seen["changed"])
    soft = SemanticMask.from_labels(FACE[None]).fitted(TALL // 8, WIDE // 8, soft=True).region(["hair"])
    grid = -(-TALL // 8 // CELL[kind]), -(-WIDE // 8 // CELL[kind])
    hair_cells = at_grid(soft[None], grid).flatten() > 0
    pixels = grid[0] * grid[1]
    rows = changed[:, -pixels:]
    assert rows.any(1).sum() == 1, "only the positive side was changed"
    (positive,) = rows[rows.any(1)]
    assert torch.equal(positive, hair_cells)
    if kind in JOINT:
        assert not changed[:, :77].any(), "the base prompt sees no phrase"
    apart = value(run, whole)
    assert apart["inside"] > 1.5 * apart["outside"]


def test_the_given_model_stays_as_it_was(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    before = Setting(server, checkpoints, kind)
    id = before.graph.show(before.sampled(before.model, before.positive, cfg=3.0, steps=2))
    digests = shown(before.run(), id)[0]["samples"]["digests"]
    here = Setting(server, checkpoints, kind)
    coupled = here.conditioned("Blond_Hair, -Goatee", here.mask(FACE))
    id = here.graph.show(here.of(coupled, cfg=3.0))
    after = here.sampled(here.model, here.positive, cfg=3.0, steps=2)
    here.graph[after.id]["inputs"]["seed"] = 4
    here.run()
    here.graph[after.id]["inputs"]["seed"] = 3
    id = here.graph.show(after)
    assert shown(here.run(), id)[0]["samples"]["digests"] == digests


def test_pictures_of_a_batch_have_masks_of_their_own(
    server: ComfyServer, checkpoints: Checkpoints, kind: str
) -> None:
    here = Setting(server, checkpoints, kind, batch=2)
    turned = FACE.flip(0)
    both = here.of(here.conditioned("Blond_Hair", here.mask(FACE, turned)), cfg=3.0)
    ids = []
    for place, labels in enumerate((FACE, turned)):
        latent = here.graph.add("LatentFromBatch", samples=here.latent, batch_index=place, length=1)
        alone = here.of(here.conditioned("Blond_Hair", here.mask(labels)), cfg=3.0, latent=latent)
        row = here.graph.add("LatentFromBatch", samples=both, batch_index=place, length=1)
        ids.append(here.difference(alone, row))
    unlike = here.difference(both, here.of(here.conditioned("Blond_Hair", here.mask(FACE)), cfg=3.0))
    run = here.run()
    assert [value(run, id)["relative"] < 1e-5 for id in ids] == [True, True]
    first, second = value(run, unlike)["rows"]
    assert first < 1e-4 < second


def test_sides_that_no_patch_divides(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    """11 x 17 latent pixels: the last cells of each row and column are cut."""
    here = Setting(server, checkpoints, kind)
    odd = here.graph.add("EmptyLatentImage", width=88, height=136, batch_size=1)
    whole = here.conditioned("Blond_Hair", here.mask(HAIR_EVERYWHERE), fit="stretch")
    same = here.difference(*(here.of(whole, model=model, latent=odd) for model in (None, here.model)))
    bound = here.conditioned("Blond_Hair", here.mask(FACE), fit="stretch")
    apart = here.difference(here.of(bound, latent=odd), here.of(whole, latent=odd))
    run = here.run()
    assert value(run, same)["relative"] <= 1e-5 < 1e-3 < value(run, apart)["relative"]


def test_a_mask_of_another_size(server: ComfyServer, checkpoints: Checkpoints, kind: str) -> None:
    """Larger by a whole factor, it covers the same; of another aspect, it is refused when sampling."""
    here = Setting(server, checkpoints, kind)
    large = FACE.repeat_interleave(2, 0).repeat_interleave(2, 1)
    pair = [here.of(here.conditioned("Blond_Hair", here.mask(labels))) for labels in (FACE, large)]
    same = here.difference(*pair)
    assert value(here.run(), same)["relative"] < 1e-5
    here = Setting(server, checkpoints, kind)
    here.graph.show(here.of(here.conditioned("Blond_Hair", here.mask(face(96, 96)))))
    assert "the mask is 96 x 96, which is another aspect than 12 x 18: set fit to" in failure(
        server.run(here.graph)
    )


def test_masks_for_another_number_of_pictures(server: ComfyServer, checkpoints: Checkpoints) -> None:
    """Two masks serve four pictures in turn; of three it is not known whose they are."""
    here = Setting(server, checkpoints, "sd3", batch=4)
    turned = FACE.flip(0)
    masks = [here.mask(FACE, turned), here.mask(FACE, turned, FACE, turned), here.mask(FACE, turned, FACE)]
    two, four, three = (here.of(here.conditioned("Blond_Hair", mask)) for mask in masks)
    same = here.difference(two, four)
    assert value(here.run(), same)["relative"] < 1e-5
    here.graph.show(three)
    assert "mask holds 3 pictures, but 4 are sampled at once: connect one for all" in failure(
        server.run(here.graph)
    )


@pytest.mark.parametrize(("change", "words"), [
    ({"attributes": None}, "attributes is missing: connect Face Attributes. A mask alone has nothing"),
    ({"clip": None}, "clip is missing: connect the CLIP"),
    ({"model": None}, "model is missing: attention coupling binds attributes in it"),
    ({"mode": "mask conditioning", "fit": "pad"}, "fit is pad, but mask conditioning always stretches"),
    ({"clip": "narrow"}, "clip gives 12 numbers a token, positive and negative have 64"),
    ({"text": "Wearing_Necktie, Wearing_Hat", "on_empty": "error", "labels": "skin"},
     "nothing of the regions is there for Wearing_Hat (hair, hat); Wearing_Necktie (clothing): add"),
])  # fmt: skip
def test_wrong_inputs(server: ComfyServer, checkpoints: Checkpoints, change: dict, words: str) -> None:
    here = Setting(server, checkpoints, "sd3")
    labels = torch.full_like(FACE, LABELS["skin"]) if "labels" in change else FACE
    node = here.conditioned(change.get("text", "Blond_Hair"), here.mask(labels))
    inputs = here.graph[node.id]["inputs"]
    for name in ("attributes", "clip", "model"):
        if name in change:
            inputs.pop(name)
            if change[name] == "narrow":
                inputs[name] = here.graph.add("TestWords", width=12, pooled=0)[0]
    inputs |= {name: change[name] for name in ("on_empty", "mode", "fit") if name in change}
    here.graph.show(node["positive"])
    run = server.run(here.graph)
    assert status(run) == "execution_error" and words in failure(run)
