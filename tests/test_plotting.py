import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from constrained_diffusion import plotting
from constrained_diffusion.domains import DomainError, ShapeError

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def cloud(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, k))


def compositions(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(k, 0.5), n)


def dots(panel, colour: str) -> np.ndarray:
    """Where the dots of one colour are in a panel."""
    rgb = np.array(to_rgba(colour)[:3])
    found = [c for c in panel.collections if isinstance(c, PathCollection)]
    found = [c for c in found if np.allclose(c.get_facecolor()[:1, :3], rgb)]
    return np.concatenate([np.zeros((0, 2)), *(c.get_offsets() for c in found)])


def mesh(panel) -> np.ndarray:
    (found,) = [c for c in panel.collections if isinstance(c, QuadMesh)]
    return np.asarray(found.get_array())


def all_figures() -> dict[str, Figure]:
    flat, parts = cloud(50, 2), compositions(50, 4)
    return {
        "film_strip": plotting.film_strip([flat, flat], ["a", "b"], outline=SQUARE, title="t"),
        "compare_2d": plotting.compare_2d(flat, flat, kind="density"),
        "ternary": plotting.ternary(parts, parts, list("abcd"), parts=(3, 0, 1)),
        "parts_histograms": plotting.parts_histograms(parts, parts, list("abcd"), title="t"),
        "ball_3d": plotting.ball_3d(cloud(50, 3) / 2, cloud(50, 3) / 2),
        "image_grid": plotting.image_grid(cloud(6, 12).reshape(6, 3, 4), columns=4, titles=list("abcdef")),
        "compare_images": plotting.compare_images(np.ones((5, 3, 4, 3)), np.ones((9, 3, 4, 3)), columns=2),
    }


def test_every_figure_is_written(tmp_path: Path) -> None:
    for name, figure in all_figures().items():
        path = plotting.save_figure(figure, tmp_path / "new" / "folder" / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 7


def test_no_global_state() -> None:
    code = (
        "import sys, constrained_diffusion.plotting as p; assert 'matplotlib' not in sys.modules\n"
        "import numpy as np; p.compare_2d(np.ones((3, 2)), np.ones((3, 2)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=root)


class TestSaveFigure:
    def test_formats_and_resolution(self, tmp_path: Path) -> None:
        figure = Figure(figsize=(2, 1))
        assert plotting.save_figure(figure, tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
        assert b"<svg" in plotting.save_figure(figure, str(tmp_path / "a.svg")).read_bytes()
        small = plotting.save_figure(all_figures()["ball_3d"], tmp_path / "a.png", dpi=50).stat().st_size
        assert plotting.save_figure(all_figures()["ball_3d"], tmp_path / "b.png").stat().st_size > small

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = plotting.save_figure(Figure(), tmp_path / "a.png")
        before = path.read_bytes()

        class Broken(Figure):
            def savefig(self, fname, **kwargs) -> None:  # type: ignore[no-untyped-def, override]
                fname.write(b"half a picture")
                raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            plotting.save_figure(Broken(), path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


class TestClouds:
    def test_panels_titles_and_points(self) -> None:
        frames = [cloud(30 + i, 2, seed=i) for i in range(5)]
        figure = plotting.film_strip(frames, list("abcde"), outline=SQUARE, columns=3, title="process")
        assert [a.get_title() for a in figure.axes] == list("abcde")
        assert figure.get_suptitle() == "process"
        for panel, frame in zip(figure.axes, frames, strict=True):
            np.testing.assert_allclose(dots(panel, plotting.DATA), frame)
            assert panel.get_aspect() == 1

    @pytest.mark.parametrize("kind", ["scatter", "density"])
    def test_points_outside_are_shown(self, kind) -> None:  # type: ignore[no-untyped-def]
        inside, outside = cloud(100, 2), cloud(7, 2) + [1.05, 0]
        on_the_wall = np.array([[0.0, 0.0], [1.0, 0.3], [0.4, 1.0]])
        both = np.concatenate([inside, outside, on_the_wall])
        left, right = plotting.compare_2d(inside, both, outline=SQUARE, kind=kind).axes
        assert len(dots(left, plotting.OUTSIDE)) == 0
        np.testing.assert_allclose(dots(right, plotting.OUTSIDE), outside)
        assert right.get_xlim()[1] > 1.2

    def test_density_counts_all_points_on_one_scale(self) -> None:
        data, samples = cloud(5000, 2), cloud(8000, 2) * [0.5, 1]
        left, right = plotting.compare_2d(data, samples, outline=SQUARE).axes
        assert mesh(left).sum() == pytest.approx(1)
        assert mesh(right).sum() == pytest.approx(1)
        assert left.collections[-1].get_clim() == right.collections[-1].get_clim()
        empty = mesh(right)[:, mesh(right).shape[1] // 2 :]
        assert empty.sum() == 0

    def test_tensors_and_single_points(self) -> None:
        figure = plotting.film_strip([torch.zeros(1, 2, requires_grad=True)])
        assert len(dots(figure.axes[0], plotting.DATA)) == 1
        plotting.film_strip([torch.zeros(1, 2)], kind="density")

    def test_errors(self) -> None:
        with pytest.raises(ShapeError, match=r"samples has shape \[4, 3\]; expected \[n, 2\]"):
            plotting.compare_2d(cloud(4, 2), cloud(4, 3))
        with pytest.raises(ShapeError, match=r"frames\[1\] has shape \[0, 2\]"):
            plotting.film_strip([cloud(4, 2), cloud(0, 2)])
        with pytest.raises(ShapeError, match="frames is empty"):
            plotting.film_strip([])
        with pytest.raises(ShapeError, match="titles has 1 entries; expected 2"):
            plotting.film_strip([cloud(4, 2)] * 2, ["a"])
        with pytest.raises(DomainError, match="data must be finite"):
            plotting.compare_2d(np.full((4, 2), np.nan), cloud(4, 2))
        with pytest.raises(ValueError, match="columns must be at least 1"):
            plotting.film_strip([cloud(4, 2)], columns=-1)


class TestCompositions:
    def test_corners_of_the_triangle(self) -> None:
        pure = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 2], [0, 0, 0, 1]])
        figure = plotting.ternary(pure, pure, list("abcd"), parts=(1, 2, 0))
        top, left, right = dots(figure.axes[0], plotting.DATA)  # the fourth has none of these parts
        np.testing.assert_allclose([left, right, top], [[0, 0], [1, 0], [0.5, np.sqrt(0.75)]], atol=1e-12)
        assert [t.get_text() for t in figure.axes[0].texts] == ["b", "c", "a"]
        assert len(dots(figure.axes[0], plotting.OUTSIDE)) == 0

    def test_negative_parts_are_outside(self) -> None:
        bad = np.array([[0.6, 0.6, -0.2], [0.2, 0.3, 0.5]])
        assert len(dots(plotting.ternary(bad, bad, list("abc")).axes[1], plotting.OUTSIDE)) == 1

    def test_histograms_hold_all_samples(self) -> None:
        data, samples = compositions(300, 3), compositions(200, 3, seed=1) * 1.5
        figure = plotting.parts_histograms(data, samples, list("abc"), bins=10, columns=2, labels=("x", "y"))
        for panel, x, y in zip(figure.axes, data.T, samples.T, strict=True):
            edges = np.linspace(min(x.min(), y.min()), max(x.max(), y.max()), 11)
            for patch, part in zip(panel.patches, (x, y), strict=True):
                np.testing.assert_allclose(patch.get_data().values, np.histogram(part, edges)[0] / len(part))
                assert patch.get_data().values.sum() == pytest.approx(1)
        assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["x", "y"]

    def test_constant_part(self) -> None:
        plotting.parts_histograms(np.zeros((5, 1)), np.ones((5, 1)), ["a"])

    def test_errors(self) -> None:
        with pytest.raises(ShapeError, match=r"data has shape \[5, 4\]; expected \[n, 3\]"):
            plotting.ternary(compositions(5, 4), compositions(5, 4), list("abc"))
        for parts in ((0, 1, 4), (0, 1), (0, 0, 1), (-1, 0, 1)):
            with pytest.raises(ValueError, match=r"parts must be three different numbers in 0 \.\. 3"):
                plotting.ternary(compositions(5, 4), compositions(5, 4), list("abcd"), parts=parts)
        with pytest.raises(ShapeError, match=r"samples has shape \[5, 3\]; expected \[n, 4\]"):
            plotting.parts_histograms(compositions(5, 4), compositions(5, 3), list("abcd"))


class TestBall:
    def test_radial_profile_and_violations(self) -> None:
        data = np.array([[0.0, 0, 0.2], [0, 1, 0], [1.2, 0, 0], [0, 0, -2]])
        samples = np.concatenate([data, [[0, 0, 2.5]]])
        figure = plotting.ball_3d(data, samples, radius=2.0)
        left, right, profile = figure.axes
        assert len(dots(left, plotting.OUTSIDE)) == 0
        assert len(dots(right, plotting.OUTSIDE)) == 1
        uniform, of_data, of_samples = profile.get_lines()
        r = uniform.get_xdata()
        np.testing.assert_allclose(uniform.get_ydata(), r**3)
        np.testing.assert_allclose(of_data.get_ydata()[[0, 40, 110, 160, 200]], [0, 0.25, 0.5, 0.75, 1])
        assert of_samples.get_ydata()[-1] == 0.8

    def test_the_view_is_a_rotation(self) -> None:
        ends = np.concatenate([np.eye(3), -np.eye(3)])
        offsets = [
            np.asarray(c.get_offsets())
            for c in plotting.ball_3d(ends, ends).axes[0].collections
            if len(c.get_offsets())
        ]
        # The squared lengths of the shadows of three orthonormal vectors on a plane sum to two.
        assert (np.concatenate(offsets) ** 2).sum() == pytest.approx(4)


class TestImages:
    def test_grid_shows_images_in_order(self) -> None:
        images = cloud(5, 6).reshape(5, 2, 3)
        figure = plotting.image_grid(images, columns=3, titles=list("abcde"))
        for panel, image, name in zip(figure.axes, images, "abcde", strict=True):
            np.testing.assert_allclose(panel.images[0].get_array(), image)
            assert panel.get_title() == name

    def test_comparison_tiles_whole_rows(self) -> None:
        data, samples = np.zeros((7, 2, 3)), torch.full((5, 2, 3), 0.5)
        left, right = plotting.compare_images(data, samples, columns=2).axes
        for panel, value in ((left, 0.0), (right, 0.5)):
            sheet = np.asarray(panel.images[0].get_array())
            assert sheet.shape == (2 * 3 - 1, 2 * 4 - 1)
            assert (sheet == value).sum() == 4 * 6
            assert (sheet == 1).sum() == 5 * 7 - 4 * 6

    def test_errors(self) -> None:
        with pytest.raises(ShapeError, match=r"images has shape \[4, 3\]; expected \[n, h, w\]"):
            plotting.image_grid(cloud(4, 3))
        with pytest.raises(ShapeError, match=r"samples has shape \[2, 3, 3\]; expected \[m, 2, 3\]"):
            plotting.compare_images(np.ones((2, 2, 3)), np.ones((2, 3, 3)))


def test_outlines_with_holes():
    around = np.linspace(0, 2 * np.pi, 100)[:, None]
    circle = np.concatenate([np.cos(around), np.sin(around)], 1)
    outline = np.concatenate([circle, np.full((1, 2), np.nan), 0.5 * circle])
    points = np.array([[0.75, 0.0], [0.0, 0.1], [0.5, 0.0], [1.0, 0.0], [1.2, 0.0]])
    (panel,) = plotting.film_strip([points], outline=outline, kind="scatter").axes
    outside, inside = dots(panel, plotting.OUTSIDE), dots(panel, plotting.DATA)
    np.testing.assert_allclose(np.sort(outside[:, 0]), [0.0, 1.2])  # in the hole, and beyond the rim
    np.testing.assert_allclose(np.sort(inside[:, 0]), [0.5, 0.75, 1.0])
    with pytest.raises(DomainError, match="outline"):
        plotting.film_strip([points], outline=np.array([[0.0, np.inf], [1.0, 1.0]]))
