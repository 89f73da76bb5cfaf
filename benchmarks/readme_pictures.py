"""Make the pictures of the README: python dev.py bench readme_pictures"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from realism_core.evidence import score_table
from realism_core.irs import Profile, typicality_map
from realism_core.pictures import read_picture
from realism_core.plots import overlay, radar
from realism_core.saving import to_pillow

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ROOT / "workflows" / "inputs"
OUTPUT = ROOT / "docs" / "images"


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    coffee = read_picture(INPUTS / "coffee.png")
    sharpened = Image.fromarray(coffee.numpy()).filter(ImageFilter.UnsharpMask(2, 200, 0))
    for name, picture in (("photograph", coffee), ("sharpened", torch.from_numpy(np.array(sharpened)))):
        plot = radar(score_table(picture[None]), Profile.shipped())[0]
        to_pillow(plot).save(OUTPUT / f"radar-{name}.png", optimize=True)
    astronaut = read_picture(INPUTS / "astronaut.png")[None]
    untypical = typicality_map(astronaut, tile=64, stride=16)
    to_pillow(overlay(astronaut / 255, untypical)[0]).save(OUTPUT / "map.jpg", quality=90)
    print(f"written to {OUTPUT.relative_to(ROOT)}: {', '.join(sorted(p.name for p in OUTPUT.iterdir()))}")


if __name__ == "__main__":
    main()
