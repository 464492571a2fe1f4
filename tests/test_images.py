"""Images as points of the unit cube: levels, batches, and pictures on disk."""

import math
import os

import numpy as np
import pytest
import torch
from PIL import Image

from constrained_diffusion import Hypercube, dequantise
from constrained_diffusion.domains import ShapeError
from constrained_diffusion.images import ImageSource, save_grid, to_levels, to_unit

Z = 4.9  # two-sided 1e-6
N = 4000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def levels_of(n=N, channels=1, height=2, width=3):
    return torch.randint(256, (n, channels, height, width), generator=seeded(7), dtype=torch.uint8)


def z_score(count, n, share):
    return abs(count - n * share) / math.sqrt(n * share * (1 - share))


# ---------------------------------------------------------------------- levels


def test_all_levels_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_unit(levels)
    assert x.dtype == torch.float32
    assert x[0] == 0
    assert x[-1] == 1
    assert Hypercube(256).contains(x)
    assert torch.equal(to_levels(x), levels)
    assert torch.equal(to_levels(levels.double() / 255), levels)


def test_bins_of_all_levels_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    for share in (0.0, 0.01, 0.5, 0.99):
        assert torch.equal(to_levels((levels.double() + share) / 256, dequantised=True), levels)
    below = torch.nextafter((levels.float() + 1) / 256, torch.zeros(256))
    assert torch.equal(to_levels(below, dequantised=True), levels)


def test_nearest_level():
    x = torch.tensor([0.0, 0.49, 0.51, 1.49, 254.49, 254.51, 255.0], dtype=torch.float64) / 255
    assert to_levels(x).tolist() == [0, 0, 1, 1, 254, 255, 255]
    assert to_levels(torch.tensor([0.0, 1.0]), dequantised=True).tolist() == [0, 255]
    assert to_levels(torch.tensor([-1e-7, 1 + 1e-7])).tolist() == [0, 255]
    assert to_levels(torch.rand(2, 3, 4, generator=seeded())).shape == (2, 3, 4)


# ---------------------------------------------------------------------- batches


def test_rows_are_the_images_in_order():
    levels, labels = levels_of(20), torch.arange(20) % 4
    source = ImageSource(levels, labels, classes=4, flip=False, hide=0.0)
    assert len(source) == 20
    rows = torch.tensor([3, 19, 3, 0])
    x, condition = source.batch(rows, seeded())
    assert x.dtype == torch.float32
    assert torch.equal(to_levels(x), levels[rows])
    assert set(condition) == {"label"}
    assert torch.equal(condition["label"], labels[rows])
    assert ImageSource(levels).batch(rows, seeded())[1] == {}


def test_half_of_the_images_are_mirrored():
    levels = levels_of()
    x, _ = ImageSource(levels).batch(torch.arange(N), seeded())
    straight, mirrored = (
        (to_levels(x) == other).flatten(1).all(1) & (levels != levels.flip(-1)).flatten(1).any(1)
        for other in (levels, levels.flip(-1))
    )
    assert int((straight | mirrored).sum()) > N - 10  # the others are symmetric
    assert z_score(int(mirrored.sum()), N, 0.5) < Z
    assert torch.equal(to_levels(ImageSource(levels, flip=False).batch(torch.arange(N), seeded())[0]), levels)


@pytest.mark.parametrize("hide", [0.1, 0.5])
def test_a_share_of_labels_is_hidden(hide):
    labels = torch.arange(N) % 3
    source = ImageSource(levels_of(), labels, classes=3, hide=hide)
    x, condition = source.batch(torch.arange(N), seeded())
    label = condition["label"]
    assert label.dtype == torch.int64
    hidden = label == -1
    assert torch.equal(label[~hidden], labels[~hidden])
    assert z_score(int(hidden.sum()), N, hide) < Z
    mirrored = (to_levels(x) != source.levels).flatten(1).any(1)
    both = int((hidden & mirrored).sum())
    assert z_score(both, int(mirrored.sum()), hide) < Z  # the two have nothing to do with each other


@pytest.mark.parametrize("hide", [0.0, 0.3, 1.0])
def test_a_share_of_images_is_hidden(hide):
    source = ImageSource(levels_of(), hide=hide, condition=lambda x, generator: x.mean(-1, keepdim=True))
    x, condition = source.batch(torch.arange(N), seeded())
    image = condition["image"]
    assert image.shape == (N, 1, 2, 1)
    hidden = image.isnan().flatten(1).any(1)
    assert torch.equal(hidden, image.isnan().flatten(1).all(1))
    torch.testing.assert_close(image[~hidden], x.mean(-1, keepdim=True)[~hidden])  # of what was mirrored and spread
    assert z_score(int(hidden.sum()), N, hide) < Z if 0 < hide < 1 else int(hidden.sum()) == N * hide


def test_hiding_all_or_nothing():
    labels = torch.arange(N) % 3
    for hide, expected in ((0.0, labels), (1.0, torch.full_like(labels, -1))):
        source = ImageSource(levels_of(), labels, classes=3, hide=hide)
        assert torch.equal(source.batch(torch.arange(N), seeded())[1]["label"], expected)


def test_the_seed_decides_the_batch():
    def batch(generator):
        x, condition = source.batch(torch.arange(50), generator)
        return torch.cat([x.flatten(), condition["label"].float(), condition["image"].flatten()])

    def noisy(x, generator):
        return x + torch.rand(x.shape, generator=generator)

    source = ImageSource(levels_of(50), torch.arange(50) % 3, classes=3, hide=0.5, dequantise=True, condition=noisy)
    torch.manual_seed(0)
    first = batch(seeded())
    torch.manual_seed(1)
    torch.testing.assert_close(batch(seeded()), first, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(batch(seeded(1)).nan_to_num(), first.nan_to_num())
    generator = seeded()
    batch(generator)
    assert not torch.equal(batch(generator).nan_to_num(), first.nan_to_num())
    assert torch.equal(source.levels, levels_of(50))  # nothing was written into the data


def test_spread_levels_are_uniform_in_their_bins():
    levels = torch.arange(256, dtype=torch.uint8).repeat(40, 1)[:, None, :, None]
    x, _ = ImageSource(levels, flip=False, dequantise=True).batch(torch.arange(40), seeded())
    assert torch.equal(to_levels(x, dequantised=True), levels)
    where = x.double() * 256 - levels
    n = where.numel()
    assert abs(float(where.mean()) - 0.5) < Z / math.sqrt(12 * n)
    assert abs(float(where.square().mean()) - 1 / 3) < Z * math.sqrt(4 / 45 / n)
    assert len(where.unique()) > 0.9 * n


def test_no_level_ever_leaves_its_bin():
    """Rounding included: of four million numbers some are within it of a bin's end."""
    for level in (1, 129, 255):
        levels = torch.full((64, 1, 256, 256), level, dtype=torch.uint8)
        x, _ = ImageSource(levels, flip=False, dequantise=True).batch(torch.arange(64), seeded())
        assert ((x >= 0) & (x <= 1)).all()
        wrong = to_levels(x, dequantised=True) != level
        assert int(wrong.sum()) == 0


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.rand(4, 1, 2, 2, generator=seeded()),), {}, "levels must be uint8.*float32"),
        ((torch.zeros(4, 2, 2, dtype=torch.uint8),), {}, r"levels must be uint8 .*\[4, 2, 2\]"),
        ((levels_of(4), torch.zeros(3, dtype=torch.long)), {"classes": 1}, r"labels has shape \[3\]; expected \[4\]"),
        ((levels_of(4), torch.zeros(4, 1, dtype=torch.long)), {"classes": 1}, "labels has shape"),
        ((levels_of(4), torch.arange(4)), {"classes": 3}, "labels run from 0 to 3"),
        ((levels_of(4), torch.arange(4) - 1), {"classes": 3}, "labels run from -1 to 2"),
        ((levels_of(4), torch.zeros(4, dtype=torch.long)), {}, "labels were given without classes"),
        ((torch.zeros(4, 9, 9, 3, dtype=torch.uint8),), {}, r"channels come first: levels.permute\(0, 3, 1, 2\)"),
        ((np.zeros((4, 3, 9, 9), np.uint8),), {}, "levels must be a torch.Tensor, not ndarray"),
        ((levels_of(4), np.zeros(4, int)), {"classes": 1}, "labels must be a torch.Tensor, not ndarray"),
        ((levels_of(4), torch.zeros(4)), {"classes": 1}, "labels must be of integers, not torch.float32"),
        ((levels_of(4),), {"hide": -0.1}, "hide.*-0.1"),
        ((levels_of(4),), {"hide": 1.1}, "hide.*1.1"),
        ((levels_of(4),), {"hide": math.nan}, "hide.*nan"),
    ],
    ids=range(14),
)
def test_wrong_sources_are_refused(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ImageSource(*arguments, **options)


# ---------------------------------------------------------------------- pictures


def cells(path, n, columns, height, width, zoom):
    """Images of a grid, read back, and whether everything between them is white."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    small = pixels[::zoom, ::zoom]
    assert np.array_equal(small.repeat(zoom, 0).repeat(zoom, 1), pixels)
    rows = -(-n // columns)
    assert small.shape[:2] == (rows * (height + 1) - 1, columns * (width + 1) - 1)
    rest, found = small.copy(), []
    for i in range(n):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        found.append(small[top : top + height, left : left + width])
        rest[top : top + height, left : left + width] = 255
    return np.stack(found), bool((rest == 255).all())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns", "zoom"), [(5, 3, 2), (6, 3, 1), (2, 8, 3), (1, 1, 1)])
def test_a_grid_read_back(tmp_path, channels, n, columns, zoom):
    levels = levels_of(n, channels, 4, 5)
    path = save_grid(levels, tmp_path / "new" / "grid.png", columns=columns, zoom=zoom)
    assert path == tmp_path / "new" / "grid.png"
    found, white = cells(path, n, min(columns, n), 4, 5, zoom)
    assert white
    expected = levels.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, expected[..., 0] if channels == 1 else expected)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "levels",
    [
        torch.zeros(2, 3, 4, 4),
        torch.zeros(2, 2, 4, 4, dtype=torch.uint8),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(0, 3, 4, 4, dtype=torch.uint8),
    ],
    ids=["float", "channels", "one", "none"],
)
def test_a_grid_of_something_else_is_refused(tmp_path, levels):
    with pytest.raises(ShapeError, match="levels must be uint8"):
        save_grid(levels, tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [("columns", 0), ("columns", -1), ("zoom", 0), ("zoom", -1)])
def test_a_grid_without_size_is_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        save_grid(levels_of(2), tmp_path / "grid.png", **{name: value})
    assert not list(tmp_path.iterdir())


def test_a_grid_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = save_grid(levels_of(2), tmp_path / "grid.png")
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_grid(levels_of(9), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_levels_come_as_any_array():
    levels = np.array([0, 51, 255], np.uint8)
    assert to_unit(levels).tolist() == to_unit(levels.tolist()).tolist() == to_unit(torch.from_numpy(levels)).tolist()
    for kind in (levels, levels.tolist(), torch.from_numpy(levels)):
        assert (dequantise(kind) * 256).floor().tolist() == [0, 51, 255]
