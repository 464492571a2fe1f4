"""Pictures of scores, of noising and sampling, and moving ones."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver
from PIL import Image

from constrained_diffusion import (
    Ball,
    DomainError,
    Euclidean,
    EulerMaruyama,
    Hypercube,
    RectifiedFlow,
    ReflectedSDE,
    Samples,
    ShapeError,
    Simplex,
    plotting,
)
from tests.mixtures import Atoms
from tests.own_domains import OwnAnnulus
from tests.test_plotting_domains import dots

TRIANGLE = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])


def arrows(figure):
    (found,) = [c for c in figure.axes[0].collections if isinstance(c, Quiver)]
    return found.get_offsets(), np.stack([found.U, found.V], 1), found


def noised(domain, points):
    sde = ReflectedSDE(domain)
    return sde, Atoms(sde, torch.tensor(points))


class TestVectorField:
    def test_arrows_point_as_the_score_does(self):
        sde, atoms = noised(Hypercube(2, -1.0, 1.0), [[0.3, 0.2], [-0.6, 0.5]])
        places, drawn, quiver = arrows(plotting.vector_field(sde.domain, atoms.score, 0.6, arrows=12))
        assert len(places) == 144
        x = torch.tensor(np.asarray(places), dtype=torch.float32)
        s = atoms.score(x, torch.full((144,), 0.6)).numpy()
        lengths, shown = np.linalg.norm(s, axis=1), np.linalg.norm(drawn, axis=1)
        np.testing.assert_allclose(drawn / shown[:, None], s / lengths[:, None], atol=1e-4)
        order = np.argsort(lengths)
        assert (np.diff(shown[order]) >= -1e-6).all()  # longer where the score is
        assert shown.max() < 2 / 12  # and none reaches into the next one's place
        middle = lengths < np.quantile(lengths, 0.9)
        np.testing.assert_allclose(shown[middle] ** 2 / lengths[middle], (shown**2 / lengths)[middle][0], rtol=1e-3)
        assert quiver.pivot == "middle"

    def test_colours_are_lengths(self):
        _, _, quiver = arrows(plotting.vector_field(Ball(2), lambda x, t: 3 * x, 0.5))
        assert quiver.get_clim()[1] == pytest.approx(3, rel=0.1)

    def test_places_lie_inside(self):
        domain = OwnAnnulus()
        places = torch.tensor(np.asarray(arrows(plotting.vector_field(domain, lambda x, t: -x, 0.5))[0]))
        depth = domain.boundary(places)[0]
        assert len(places) > 200
        assert float(depth.min()) > 0.25 * 2 / 22

    def test_triangle(self):
        def towards_the_first(x, t):
            return torch.tensor([1.0, 0.0, 0.0]).expand_as(x)  # not tangent: its tangent part is drawn

        figure = plotting.vector_field(Simplex(3), towards_the_first, 0.5, arrows=8, names=list("abc"))
        places, drawn, _ = arrows(figure)
        assert len(places) == 36
        np.testing.assert_allclose(np.mean(places, 0), TRIANGLE.mean(0), atol=1e-6)
        direction = drawn[0] / np.linalg.norm(drawn[0])
        np.testing.assert_allclose(direction, -TRIANGLE.mean(0) / np.linalg.norm(TRIANGLE.mean(0)), atol=1e-6)
        assert [t.get_text() for t in figure.axes[0].texts] == list("abc")

    def test_scores_get_points_of_the_domain(self):
        seen = {}

        def score(x, t, label):
            seen.update(x=x, t=t, label=label)
            return torch.zeros_like(x)  # nothing to draw, and no warning

        label = torch.tensor([1.0, 2.0])
        for domain in (Simplex(3), Ball(2)):
            plotting.vector_field(domain, score, 0.3, condition={"label": label}, arrows=5, dtype=torch.float64)
            assert domain.contains(seen["x"]).all()
            assert seen["x"].dtype == torch.float64
            np.testing.assert_allclose(seen["t"], 0.3)
            assert seen["label"].shape == (len(seen["x"]), 2)
            assert (seen["label"] == label).all()

    def test_cloud_behind(self):
        points = torch.tensor([[0.2, 0.2], [1.1, 0.0]])
        panel = plotting.vector_field(Ball(2), lambda x, t: -x, 0.5, points=points).axes[0]
        np.testing.assert_allclose(dots(panel, plotting.DATA), points[:1])
        np.testing.assert_allclose(dots(panel, plotting.OUTSIDE), points[1:])
        assert panel.get_xlim()[1] > 1.1

    def test_no_walls(self):
        figure = plotting.vector_field(Euclidean(2), lambda x, t: -x, 0.5, points=torch.eye(2), arrows=4)
        assert len(arrows(figure)[0]) == 16
        with pytest.raises(DomainError, match="points must be given to draw arrows in Euclidean"):
            plotting.vector_field(Euclidean(2), lambda x, t: -x, 0.5)

    def test_errors(self):
        with pytest.raises(ShapeError, match="vector_field draws domains in the plane .* drawn as 'ball'"):
            plotting.vector_field(Ball(3), lambda x, t: -x, 0.5)
        with pytest.raises(ShapeError, match=r"score returned shape \[16\]; expected \[16, 2\]"):
            plotting.vector_field(Hypercube(2), lambda x, t: x[:, 0], 0.5, arrows=4)
        with pytest.raises(DomainError, match=r"score must be finite; at t = 0.5"):
            plotting.vector_field(Hypercube(2), lambda x, t: x / 0, 0.5)
        with pytest.raises(ValueError, match="arrows must be at least 2, not 1"):
            plotting.vector_field(Hypercube(2), lambda x, t: x, 0.5, arrows=1)
        with pytest.raises(ShapeError, match="names has 2 entries; expected 3, one a part"):
            plotting.vector_field(Simplex(3), lambda x, t: x, 0.5, names=["a", "b"])


class TestProcessStrip:
    def test_noise_above_and_samples_below(self):
        sde, atoms = noised(Ball(2), [[0.5, 0.0], [-0.3, 0.4]])
        generator = torch.Generator().manual_seed(0)
        data = atoms.draw(60, generator)
        samples = EulerMaruyama(sde, atoms.score, steps=20).sample(50, generator=generator, frames=5)
        figure = plotting.process_strip(sde, data, samples, generator=generator, title="t")
        above, below = figure.axes[:5], figure.axes[5:]
        assert len(below) == 5
        assert [p.get_title()[:8] for p in above] == ["t = 0.00", "t = 0.25", "t = 0.50", "t = 0.75", "t = 1.00"]
        assert above[-1].get_title() == f"t = 1.00,  σ = {sde.sigma_max:.2g}"
        assert not any(p.get_title() for p in below)
        for panel, frame in zip(below, samples.trajectory.flip(0), strict=True):
            np.testing.assert_allclose(dots(panel, plotting.SAMPLES), frame, rtol=1e-6)
        assert np.abs(dots(above[0], plotting.DATA) - data.numpy()).max() < 6 * sde.sigma_min
        spread = [dots(panel, plotting.DATA).std() for panel in above]
        assert spread[-1] > spread[0]
        assert [above[0].texts[0].get_text(), below[0].texts[0].get_text()] == ["noising →", "← sampling"]
        assert len({panel.get_xlim() for panel in figure.axes}) == 1

    def test_times(self):
        sde, atoms = noised(Hypercube(2), [[0.5, 0.2]])
        data = atoms.points.double().expand(10, 2).numpy()
        assert len(plotting.process_strip(sde, data).axes) == 5
        x = torch.rand(4, 7, 2, generator=torch.Generator().manual_seed(0))
        samples = Samples(x[-1], 3, x, torch.tensor([1.0, 0.6, 0.3, 0.0]))
        figure = plotting.process_strip(sde, data, samples, times=[0.0, 0.5, 1.0])
        assert [p.get_title() for p in figure.axes[3:]] == ["", "t = 0.60", ""]
        np.testing.assert_allclose(dots(figure.axes[4], plotting.SAMPLES), x[1])

    def test_triangle_and_violations(self):
        sde = ReflectedSDE(Simplex(3))
        data = torch.eye(3)
        x = torch.tensor([[[0.2, 0.3, 0.5], [0.6, 0.6, -0.2]]])
        figure = plotting.process_strip(sde, data, Samples(x[0], 1, x, torch.tensor([0.0])), times=[0.0])
        above, below = figure.axes
        assert np.abs(dots(above, plotting.DATA) - TRIANGLE).max() < 6 * sde.sigma_min
        np.testing.assert_allclose(dots(below, plotting.SAMPLES), (x[0] @ torch.tensor(TRIANGLE).float())[:1])
        assert len(dots(below, plotting.OUTSIDE)) == 1
        assert below.get_ylim()[0] < -0.2 * np.sqrt(0.75)

    def test_columns_share_a_colour_scale(self):
        sde = ReflectedSDE(Hypercube(2))
        x = torch.rand(1, 6000, 2, generator=torch.Generator().manual_seed(0))
        data = x[0] * 0.5
        figure = plotting.process_strip(sde, data, Samples(x[0], 1, x, torch.tensor([0.0])), times=[0.0])
        scales = [panel.collections[-1].get_clim() for panel in figure.axes]
        assert scales[0] == scales[1]

    def test_flows_are_processes(self):
        assert len(plotting.process_strip(RectifiedFlow(Hypercube(2)), torch.rand(9, 2), times=[0.0, 1.0]).axes) == 2

    def test_errors(self):
        sde, data = ReflectedSDE(Hypercube(2)), torch.rand(5, 2)
        empty = Samples(data, 1, torch.empty(0, 5, 2))
        with pytest.raises(ShapeError, match=r"samples.trajectory is empty: ask the sampler for frames"):
            plotting.process_strip(sde, data, empty)
        with pytest.raises(ShapeError, match="times is empty"):
            plotting.process_strip(sde, data, times=[])
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            plotting.process_strip(sde, data, times=[1.5])
        with pytest.raises(DomainError, match="lies outside"):
            plotting.process_strip(sde, data + 1)
        with pytest.raises(ShapeError, match=r"data has shape \[0, 2\]"):
            plotting.process_strip(sde, data[:0])
        with pytest.raises(ShapeError, match="process_strip draws domains in the plane"):
            plotting.process_strip(ReflectedSDE(Hypercube(3)), torch.rand(5, 3))


class TestAnimate:
    def test_frames_and_durations(self, tmp_path):
        frames = torch.rand(4, 30, 2, generator=torch.Generator().manual_seed(0))
        path = plotting.animate(
            frames, tmp_path / "new" / "a.gif", list("abcd"), domain=Hypercube(2), rate=10, hold=0.5, dpi=40
        )
        assert [p.name for p in path.parent.iterdir()] == ["a.gif"]
        with Image.open(path) as picture:
            assert picture.n_frames == 4
            assert picture.info["loop"] == 0
            durations = []
            for i in range(4):
                picture.seek(i)
                durations.append(picture.info["duration"])
        assert durations == [100, 100, 100, 600]

    @pytest.mark.parametrize("dpi", [40, 100])
    def test_colours_are_the_figures_own(self, tmp_path, dpi):
        # A quantiser would have drawn the violation in the nearest frequent colour, and white as a grey.
        inside = np.full((40, 2), 0.5)
        frames = [inside, np.concatenate([inside, [[1.1, 0.5]]]), inside * 0.5]
        path = plotting.animate(frames, tmp_path / "a.gif", domain=Hypercube(2), generated=[2], dpi=dpi)
        with Image.open(path) as picture:
            pictures = []
            for i in range(3):
                picture.seek(i)
                pictures.append(np.asarray(picture.convert("RGB")).astype(int))

        def near(i, colour):
            return int((np.abs(pictures[i] - 255 * np.array(to_rgb(colour))).max(-1) < 40).sum())

        assert (pictures[0][0, 0] == 255).all()
        assert [near(i, plotting.OUTSIDE) > 0 for i in range(3)] == [False, True, False]
        assert [near(i, plotting.DATA) > 0 for i in range(3)] == [True, True, False]
        assert [near(i, plotting.SAMPLES) > 0 for i in range(3)] == [False, False, True]

    def test_any_flat_domain(self, tmp_path):
        for domain in (Simplex(3), OwnAnnulus(), Euclidean(2)):
            frames = [domain.sample_prior(20, 1.0) for _ in range(2)]
            assert plotting.animate(frames, tmp_path / "a.gif", domain=domain, dpi=20).stat().st_size > 100
        outline = plotting.outline_of(Ball(2))
        plotting.animate([np.zeros((1, 2))], str(tmp_path / "a.gif"), outline=outline, kind="density", dpi=20)

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = plotting.animate([np.zeros((1, 2))], tmp_path / "a.gif", dpi=20)
        before = path.read_bytes()

        def save(self, file, **kwargs):
            file.write(b"half a picture")
            raise OSError("disk full")

        monkeypatch.setattr(Image.Image, "save", save)
        with pytest.raises(OSError, match="disk full"):
            plotting.animate([np.ones((1, 2))], path, dpi=20)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_errors(self, tmp_path):
        frames, path = [np.zeros((2, 2))], tmp_path / "a.gif"
        with pytest.raises(ValueError, match=r"path must end in .gif, not '.mp4'"):
            plotting.animate(frames, tmp_path / "a.mp4")
        with pytest.raises(ShapeError, match="frames is empty"):
            plotting.animate([], path)
        with pytest.raises(ShapeError, match=r"frames\[0\] has shape \[2, 2\]; expected \[n, 3\]"):
            plotting.animate(frames, path, domain=Simplex(3))
        with pytest.raises(ShapeError, match="animate draws domains in the plane"):
            plotting.animate(frames, path, domain=Hypercube(3))
        with pytest.raises(DomainError, match=r"frames\[0\] must be finite"):
            plotting.animate([frames[0] * np.nan], path)
        with pytest.raises(ShapeError, match="titles has 2 entries; expected 1, one a frame"):
            plotting.animate(frames, path, ["a", "b"])
        with pytest.raises(ValueError, match="outline must be left out"):
            plotting.animate(frames, path, domain=Ball(2), outline=np.eye(2))
        with pytest.raises(ValueError, match="rate and dpi must be positive"):
            plotting.animate(frames, path, rate=0)
        assert not list(tmp_path.iterdir())
