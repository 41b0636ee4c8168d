"""Draw docs/decoder.png (draws from the prior; held-out structures of each family above what the decoder makes of them).

python scripts/decoder_picture.py docs/decoder.png      # draws it, and prints the README's table
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import latentopt as lo
from latentopt_materials import FAMILIES, Microstructures
from latentopt_materials.decoders import training_record

GAP, LEFT, ACROSS, LABEL = 6, 96, 8, 20
GREY = 140


def row(pictures: Tensor) -> Tensor:
    """Pictures `(N, 1, H, W)` side by side with gaps, `(H, ...)`, 0 to 255."""
    gap = torch.full((pictures.shape[2], GAP), float(GREY))
    return torch.cat([part for one in pictures for part in (one[0] * 255, gap)], 1)


def table() -> str:
    """The README's table of what survives encoding and decoding, from the training record."""
    lines = [
        "| family | pixels of the other phase | volume fraction off by | two-point correlation off by | grey |",
        "| --- | --- | --- | --- | --- |",
    ]
    for family, f in training_record()["held_out"]["reconstruction"].items():
        correlation = f"{f['two_point_error']:.4f} ({f['two_point_spread']:.3f})"
        off = f"{f['volume_fraction_error']:.4f}"
        lines.append(f"| {family} | {f['wrong_phase']:.1%} | {off} | {correlation} | {f['grey']:.1%} |")
    return "\n".join(lines)


def main(path: Path) -> None:
    """Draw it."""
    config = Microstructures()
    decoder, examples = config.build(), config.examples()
    each = len(examples) // len(FAMILIES)
    draws = config.draw(lo.sample(decoder, 3 * ACROSS // 2, seed=0).designs)
    labels = ("draws from\nthe prior,\n2 x 2 cells each", "", "")
    lines = [(label, row(part)) for label, part in zip(labels, draws.split(ACROSS // 2), strict=True)]
    for i, family in enumerate(FAMILIES):
        x = examples[i * each : i * each + ACROSS]
        lines += [(family, row(x)), ("  decoded", row(decoder.decode(decoder.encode(x))))]
    # two cells of draws are as wide as two structures and the gap between: they line up but for the gaps
    width = LEFT + max(part.shape[1] for _, part in lines)
    sheet = Image.new("L", (width, sum(part.shape[0] + GAP for _, part in lines) + GAP), GREY)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    top = GAP
    for label, part in lines:
        sheet.paste(Image.fromarray(part.round().to(torch.uint8).numpy()), (LEFT, top))
        pen.text((4, top + 2), label, fill=0, font=font)
        top += part.shape[0] + GAP
    path.parent.mkdir(exist_ok=True)
    sheet.quantize(16).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    print(table())
