"""Fit the profiles that ship with the pack: python dev.py bench fit_profile

Fetches the photographs of devtools/pictures.json (five Debian packages, 215 MB, into the user cache) and
writes realism_core/irs/profiles/photographs-{reference,paper}.json; the same bytes every time on one machine.
The photographs of scikit-image are left out, so that the demo, the example workflows and the tests look at
pictures the profile never saw.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from devtools.environment import cache_folder
from devtools.pictures import photographs
from realism_core.irs import DEFINITIONS, Profile
from realism_core.irs.profile import SHIPPED
from realism_core.pictures import read_batches

SOURCES = (
    "gcompris",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
)
MAX_SIDE = 1536


def main() -> None:
    pictures = photographs(cache_folder(), sys.executable, SOURCES)
    counts = ", ".join(
        f"{count} of {source}" for source, count in Counter(p.source for p in pictures).items()
    )
    source = (
        f"{len(pictures)} photographs ({counts}), picked by eye from Debian packages, decoded by Pillow; a "
        f"longer side above {MAX_SIDE} px was brought to {MAX_SIDE} (Lanczos). Most had been through lossy "
        "WebP or JPEG before. Landmarks, animals, landscapes, objects; few portraits. Made by "
        "benchmarks/fit_profile.py."
    )
    for definition in DEFINITIONS:
        began = time.perf_counter()
        batches = (
            picture[None] for _, picture in read_batches((p.path for p in pictures), max_side=MAX_SIDE)
        )
        profile = Profile.fit(batches, definition, f"photographs-{definition}", source)
        path = profile.save(SHIPPED / f"{profile.name}.json")
        quantiles = profile.irs_quantiles[[5, 50, 95]].tolist()
        print(
            f"{definition:9s} {profile.count} pictures, {profile.skipped} left out, IRS p5/p50/p95 "
            + " / ".join(f"{q:.2f}" for q in quantiles)
            + f", {path.stat().st_size} bytes, {time.perf_counter() - began:.0f} s"
        )
        for name, row in zip(profile.to_dict()["measures"], profile.radius_quantiles, strict=True):
            print(f"  radius {name:20s} p5 {row[5]:.3f}  p50 {row[50]:.3f}  p95 {row[95]:.3f}")


if __name__ == "__main__":
    main()
