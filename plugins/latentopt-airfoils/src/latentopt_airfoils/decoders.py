"""The decoder `airfoils`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from latentopt import Decoder, DecoderConfig, as_device
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
        found = published.tensors("airfoils.safetensors")
        with torch.device("meta"):  # no random numbers are drawn for weights that are replaced at once
            decoder, encoder = AirfoilDecoder(), AirfoilEncoder()
        for prefix, network in (("decoder.", decoder), ("encoder.", encoder)):
            part = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
            network.load_state_dict(part, assign=True)
        return Decoder(
            decoder.to(device),
            latent_shape=(LATENT,),
            encoder=encoder.to(device),
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
