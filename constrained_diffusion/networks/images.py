"""Networks for points that are images ``[C, H, W]``: a U-Net and a transformer of the diffusers library.

May use: torch, domains, diffusers (imported when a network is built; ``pip install "reflected-diffusion[images]"``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..domains import Domain
from ..domains.checks import ShapeError, is_plain

__all__ = ["ImageTransformer", "UNet"]

_STEPS_PER_E = 100.0  # log sigma in the units of these libraries' time steps: a thousand over ten natural logarithms
_POINTS = 1024  # of the prior, to see where it lies and how wide it is


class _ImageNetwork(nn.Module, ABC):
    """What both have in common: the domain's own inputs, noise level, labels, and an image as a condition.

    A subclass is built with the inputs' channels, and answers :meth:`body`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, domain: Domain, classes: int, image_channels: int, **size: Any) -> None:
        super().__init__()
        self._config = {**size, "classes": classes, "image_channels": image_channels}
        if len(domain.event_shape) != 3:
            raise ShapeError(
                f"an image network needs points [C, H, W]; those of {domain!r} have {list(domain.event_shape)}"
            )
        if classes < 0 or image_channels < 0:
            raise ValueError(f"classes and image_channels must not be negative, not {classes}, {image_channels}")
        self.domain, self.classes, self.image_channels = domain, classes, image_channels
        self.shape = domain.event_shape
        generator = torch.Generator().manual_seed(0)
        x = domain.sample_prior(_POINTS, 1.0, generator=generator, dtype=torch.float64)
        self.planes = domain.planes(x[:1], torch.ones(1, dtype=x.dtype)).shape[1]
        self.register_buffer("shift", x.mean().float())
        self.register_buffer("scale", x.std().float())

    def config(self) -> dict[str, Any]:
        """The constructor's arguments but the domain."""
        return dict(self._config)

    @property
    def channels_in(self) -> int:
        """Features of the point, channels of the image it is conditioned on, one that tells whether there is one."""
        return self.planes * self.shape[0] + (self.image_channels + 1 if self.image_channels else 0)

    @property
    def embeddings(self) -> int:
        """Rows of the table of labels: the classes, and one that stands for none."""
        return self.classes + 1 if self.classes else 0

    @abstractmethod
    def body(self, x: Tensor, level: Tensor, label: Tensor | None) -> Tensor:
        """From ``[B, channels_in, H, W]``, noise levels ``[B]`` and labels ``[B]`` to ``[B, C, H, W]``."""

    def forward(self, x: Tensor, log_sigma: Tensor, label: Tensor | None = None, image: Tensor | None = None) -> Tensor:
        """Raw scores ``[B, C, H, W]``.

        Args:
            x: points ``[B, C, H, W]``.
            log_sigma: noise levels ``[B]``.
            label: classes ``[B]``, if built with ``classes``; -1, or the number of classes, stands for none.
            image: images ``[B, image_channels, h, w]`` of any size, in the units of x; one of NaN stands for none.
        """
        for name, given, wanted in (("label", label, self.classes), ("image", image, self.image_channels)):
            if (given is None) == bool(wanted):
                raise ShapeError(
                    f"{name} was given to a network built without one"
                    if given is not None
                    else f"{name} is missing: the network was built with one"
                )
        if label is not None and (label.shape != x.shape[:1] or label.is_floating_point()):
            raise ShapeError(f"label has shape {list(label.shape)} and {label.dtype}; expected integers [{len(x)}]")
        if label is not None:
            if is_plain(label) and bool(((label < -1) | (label > self.classes)).any()):
                raise ValueError(f"label must lie in 0 .. {self.classes - 1}, or be -1 for none")
            label = torch.where(label < 0, self.classes, label.long())
        if not len(x):
            return x
        inputs = [self.domain.planes(x, log_sigma.exp()).flatten(1, 2)]
        if image is not None:
            if image.ndim != 4 or image.shape[:2] != (len(x), self.image_channels):
                raise ShapeError(
                    f"image has shape {list(image.shape)}; expected [{len(x)}, {self.image_channels}, h, w]"
                )
            missing = image.flatten(1).isnan().any(1)[:, None, None, None]
            known = torch.where(missing, 0.0, (image.to(x.dtype) - self.shift) / self.scale)
            known = nn.functional.interpolate(known, size=self.shape[1:], mode="nearest")
            inputs += [known, missing.to(x.dtype).expand(-1, 1, *self.shape[1:])]
        return self.body(torch.cat(inputs, 1), _STEPS_PER_E * log_sigma, label)


class UNet(_ImageNetwork):
    """Residual blocks at several resolutions, with attention at some, in the manner of DDPM++ and ADM.

    The network is diffusers' ``UNet2DModel``, with noise level and label scaling and shifting the normalised
    activations (Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv 2105.05233).

    Args:
        domain: of points ``[C, H, W]``; H and W divide by 2 to the power of the number of levels less one.
        channels: at full resolution.
        multipliers: of the channels, one for each resolution.
        blocks: residual blocks at each resolution.
        attention: widths of the image at which blocks attend, besides the middle.
        dropout: share of activations left out while training.
        classes: how many labels there are; 0 for none.
        image_channels: of an image to condition on; 0 for none.
    """

    def __init__(
        self,
        domain: Domain,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.1,
        classes: int = 0,
        image_channels: int = 0,
    ) -> None:
        size = {"channels": channels, "multipliers": list(multipliers), "blocks": blocks, "attention": list(attention)}
        super().__init__(domain, classes, image_channels, **size, dropout=dropout)
        from diffusers import UNet2DModel

        if not multipliers:
            raise ValueError("multipliers is empty; expected one for each resolution")
        shrink = 2 ** (len(multipliers) - 1)
        if self.shape[1] % shrink or self.shape[2] % shrink:
            raise ShapeError(f"images of {list(self.shape[1:])} cannot be halved {len(multipliers) - 1} times")
        attend = [self.shape[2] // 2**level in tuple(attention) for level in range(len(multipliers))]
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
        self.unet = UNet2DModel(
            sample_size=tuple(self.shape[1:]),
            in_channels=self.channels_in,
            out_channels=self.shape[0],
            block_out_channels=tuple(channels * m for m in multipliers),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attend),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attend)),
            layers_per_block=blocks,
            attention_head_dim=min(64, channels),
            norm_num_groups=groups,
            resnet_time_scale_shift="scale_shift",
            dropout=dropout,
            num_class_embeds=self.embeddings or None,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def body(self, x: Tensor, level: Tensor, label: Tensor | None) -> Tensor:
        """The U-Net's answer ``[B, C, H, W]``."""
        out: Tensor = self.unet(x, level, class_labels=label, return_dict=False)[0]
        return out


class ImageTransformer(_ImageNetwork):
    """Attention between patches, scaled and shifted by noise level and label: a diffusion transformer.

    The network is diffusers' ``DiTTransformer2DModel`` (Peebles & Xie 2023, "Scalable Diffusion Models with
    Transformers", arXiv 2212.09748). Images are square.

    Args:
        domain: of points ``[C, H, H]``, H a multiple of ``patch``.
        width: numbers that describe a patch; a multiple of ``heads``.
        depth: blocks.
        heads: of the attention.
        patch: pixels across a patch.
        dropout: share of activations left out while training.
        classes: how many labels there are; 0 for none.
        image_channels: of an image to condition on; 0 for none.
    """

    def __init__(
        self,
        domain: Domain,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 2,
        dropout: float = 0.0,
        classes: int = 0,
        image_channels: int = 0,
    ) -> None:
        size = {"width": width, "depth": depth, "heads": heads, "patch": patch}
        super().__init__(domain, classes, image_channels, **size, dropout=dropout)
        from diffusers import DiTTransformer2DModel

        if self.shape[1] != self.shape[2] or self.shape[1] % patch:
            raise ShapeError(f"images must be square and divide into patches of {patch}, not {list(self.shape[1:])}")
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}")
        self.transformer = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=self.channels_in,
            out_channels=self.shape[0],
            num_layers=depth,
            dropout=dropout,
            sample_size=self.shape[2],
            patch_size=patch,
            num_embeds_ada_norm=max(1, classes),
            norm_num_groups=1,
        )
        for block in self.transformer.transformer_blocks:
            block.norm1.emb.class_embedder.dropout_prob = 0.0  # labels are hidden by whoever draws the batches
        nn.init.zeros_(self.transformer.proj_out_2.weight)
        nn.init.zeros_(self.transformer.proj_out_2.bias)

    def body(self, x: Tensor, level: Tensor, label: Tensor | None) -> Tensor:
        """The transformer's answer ``[B, C, H, H]``."""
        label = torch.zeros_like(level, dtype=torch.long) if label is None else label
        out: Tensor = self.transformer(x, timestep=level, class_labels=label, return_dict=False)[0]
        return out
