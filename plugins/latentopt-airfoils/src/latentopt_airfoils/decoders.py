"""The decoder `airfoils`."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from latentopt import Decoder, DecoderConfig, as_device, filled
from latentopt_airfoils import published
from latentopt_airfoils.nets import LATENT, AirfoilDecoder, AirfoilEncoder
from latentopt_airfoils.outlines import pictures


class Airfoils(DecoderConfig):
    """Airfoils `(18,)`, as CST numbers, from 8 latent values: a decoder of real airfoils, with its encoder.

    A variational auto-encoder trained on real airfoils of the UIUC database (data/LICENSE.md, data/airfoils.json) with the
    prior N(0, I), which is checked against the encodings of all of them; they are the known designs that realism measures
    distances to. `device`: where it runs.
    Raises `DecoderError` where its files are not those that were published, or the device is not there.
    """

    kind: Literal["airfoils"] = "airfoils"
    device: str = "cpu"

    def build(self) -> Decoder:
        device = as_device(self.device)
        weights = published.weights("airfoils.safetensors")
        return Decoder(
            filled(AirfoilDecoder, weights.part("decoder.")).to(device),
            latent_shape=(LATENT,),
            encoder=filled(AirfoilEncoder, weights.part("encoder.")).to(device),
            prior="normal",
            data=published.real().numbers,
            name="airfoils",
        )

    def examples(self) -> Tensor:
        """Real airfoils that training never saw, `(n, 18)`, in the order of their names."""
        known = published.real()
        return known.numbers[known.held_out]

    def draw(self, designs: Tensor) -> Tensor:
        """Filled outlines, `(N, 1, 80, 192)` in [0, 1], at one scale both ways."""
        return pictures(designs)
