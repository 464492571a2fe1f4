"""The benchmark suite: its coordinates and noise against differences, its cells, and its page."""

import json

import pytest
import torch

from constrained_diffusion import Ball, Hypercube, Polytope, Simplex
from tests.programs import programs
from tests.trainings import ROOT

FOLDER = ROOT / "benchmarks" / "suite"


@pytest.fixture(scope="module")
def suite():
    names = "tasks", "charts", "barrier", "methods", "measures", "page", "run", "micro", "scaling", "pace"
    with programs(*names, folder=FOLDER) as found:
        yield found


def uniform(domain, n, seed=0):
    return domain.sample_uniform(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DOMAINS = [Hypercube(3), Simplex(3), Simplex(5), Ball(2, 2.0), Ball(3), Polytope.birkhoff(3)]


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_charts_and_mirror_maps_lead_back_and_know_their_volumes(suite, domain):
    x = uniform(domain, 40)
    flat = suite.charts.FlatChart(domain)
    axes = flat.axes.reshape(domain.dim, 1, *domain.event_shape).expand(domain.dim, *x.shape)
    h = 1e-6 * domain.inradius
    for chart in (flat, suite.charts.mirror_map(domain), suite.charts.Standardised(flat, x)):
        torch.testing.assert_close(chart.back(chart.to(x)), x, rtol=0, atol=1e-10)
        columns = [(chart.to(x + h * v) - chart.to(x - h * v)) / (2 * h) for v in axes]
        expected = torch.linalg.slogdet(torch.stack(columns, -1)).logabsdet
        torch.testing.assert_close(chart.log_det(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("domain", [Simplex(3), Simplex(5), Polytope.birkhoff(3), Hypercube(2)], ids=str)
def test_half_spaces_are_those_of_the_domain(suite, domain):
    chart = suite.charts.FlatChart(domain)
    A, b = suite.charts.half_spaces(domain, chart)
    torch.testing.assert_close(A.norm(dim=1), torch.ones(len(A), dtype=torch.float64))
    inside = uniform(domain, 500)
    assert float((b - chart.to(inside) @ A.T).min()) >= -1e-12
    beyond = chart.to(inside) + 0.5 * domain.diameter * torch.randn(500, domain.dim, dtype=torch.float64)
    assert torch.equal(((b - beyond @ A.T) >= 0).all(1), domain.contains(chart.back(beyond), atol=1e-12))


def test_the_barriers_drift_is_half_the_divergence_of_its_inverse_metric(suite):
    domain = Simplex(3)
    A, b = suite.charts.half_spaces(domain, chart := suite.charts.FlatChart(domain))
    model = suite.barrier.BarrierDiffusion(A, b, None, suite.methods.Budget(width=8, depth=1), 0)
    x, h = chart.to(uniform(domain, 20)), 1e-6

    def inverse(y):
        factor = model.inverse_metric(y)[0]
        return factor @ factor.mT

    steps = torch.eye(2, dtype=torch.float64) * h
    slopes = [(inverse(x + e) - inverse(x - e))[:, :, j] / (2 * h) for j, e in enumerate(steps)]
    torch.testing.assert_close(model.inverse_metric(x)[1], sum(slopes) / 2, rtol=1e-5, atol=1e-8)


def test_the_barriers_noise_keeps_the_uniform_law(suite):
    domain = Simplex(3)
    A, b = suite.charts.half_spaces(domain, chart := suite.charts.FlatChart(domain))
    model = suite.barrier.BarrierDiffusion(A, b, None, suite.methods.Budget(width=8, depth=1), 0)
    x = chart.to(uniform(domain, 20_000))
    y = chart.back(model.noise(x, torch.full((len(x),), 2.0, dtype=torch.float64)))
    assert float((y - chart.back(x)).norm(dim=1).mean()) > 0.2  # it did move
    torch.testing.assert_close(y.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=0.01)
    torch.testing.assert_close(y.var(0), torch.full((3,), 1 / 18, dtype=torch.float64), rtol=0, atol=0.003)


@pytest.mark.parametrize("name", ["spiral", "ring", "cube", "dirichlet9", "birkhoff"])
def test_laws_integrate_to_one_and_are_what_is_drawn(suite, name):
    task = suite.tasks.task(name)
    train, held_back = task.data(0)
    assert bool(task.domain.contains(train, atol=1e-6).all())
    assert not torch.equal(train[:5], held_back[:5])
    torch.testing.assert_close(task.data(0)[0], train)
    # E_q[p / q] over draws from half the law and half the uniform one: weights are bounded.
    n = 4000
    pool = torch.cat([held_back[:n].double(), uniform(task.domain, n)])
    log_p = task.log_prob(pool)
    log_q = torch.logaddexp(log_p, torch.full_like(log_p, -task.domain.log_volume)) - torch.log(torch.tensor(2.0))
    share = torch.exp(log_p - log_q)
    assert float(share.mean()) == pytest.approx(1.0, abs=5 * float(share.std()) / len(share) ** 0.5)


def test_a_chain_of_moves_that_are_not_made_keeps_the_uniform_law(suite):
    domain = suite.methods.by_metropolis(Ball(2))
    x = uniform(domain, 20_000)
    y = domain.noise(x, torch.full((len(x),), 0.7, dtype=torch.float64))
    assert bool(domain.contains(y).all())
    assert float((y - x).norm(dim=1).mean()) > 0.3
    assert float(y.square().sum(1).mean()) == pytest.approx(0.5, abs=0.01)
    assert Ball(2).reflect is not domain.reflect


def test_cells_are_kept_resumed_and_written_up(suite, tmp_path, capsys, monkeypatch):
    arguments = ["--quick", "--tasks", "dirichlet", "--methods", "unconstrained", "reflected", "--out", str(tmp_path)]
    suite.run.main(arguments)
    cells = {path.name: path.read_bytes() for path in (tmp_path / "cells").glob("*.json")}
    assert len(cells) == 2
    rows = json.loads(cells["dirichlet-reflected-0.json"])["rows"]
    assert list(rows) == ["reflected", "reflected, corrector", "reflected, ODE"]
    assert all(row["outside"] == 0 and row["swd"] > 0 and row["nfe"] > 0 for row in rows.values())
    raw, projected, _ = json.loads(cells["dirichlet-unconstrained-0.json"])["rows"].values()
    assert raw["outside"] > projected["outside"] == 0
    assert raw["nfe"] == projected["nfe"]
    assert raw["sampling_seconds"] <= projected["sampling_seconds"]
    page = (tmp_path / "README.md").read_text()
    assert "| unconstrained, thresholded |" in page
    assert "## Dirichlet(1, 0.1, 5)" in page
    assert (tmp_path / "results.png").stat().st_size > 10_000
    monkeypatch.setattr(suite.run, "cell", lambda *_: pytest.fail("made again"))
    suite.run.main(arguments)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cells").glob("*.json")} == cells


def test_no_likelihood_of_data_on_the_walls(suite):
    task = suite.tasks.task("digits")
    distances, _ = task.domain.boundary(task.data(0)[0])
    assert not task.has_density
    assert float((distances <= 0).double().mean()) > 0.01
    assert suite.tasks.task("ring").has_density
    found = suite.run.cell("digits", suite.methods.METHODS["unconstrained"], suite.run.QUICK, 0, 400)
    assert found["rows"]
    assert "log_likelihood" not in found


def test_cells_of_an_earlier_version_are_marked_and_made_again_when_asked(suite, tmp_path, monkeypatch):
    arguments = ["--quick", "--tasks", "ring", "--methods", "unconstrained", "mirror map", "--out", str(tmp_path)]
    suite.run.main(arguments)
    path = tmp_path / "cells" / "ring-mirror-map-0.json"
    now = json.loads(path.read_text())
    path.write_text(json.dumps(now | {"machine": now["machine"] | {"library": "0.0.1"}}))
    monkeypatch.setattr(suite.run, "cell", lambda *_: pytest.fail("made again"))
    suite.run.main(arguments)
    page = (tmp_path / "README.md").read_text()
    assert "has a star" in page
    (row,) = (line for line in page.splitlines() if "mirror map" in line)
    assert row.startswith("| mirror map\\* |")
    assert [part.strip() for part in row.split("|")[-3:-1]] == ["", ""]  # no times: those of another day
    seen = []
    monkeypatch.setattr(suite.run, "cell", lambda name, method, *_: seen.append(method.name) or now)
    suite.run.main([*arguments, "--redo", "0.0.1"])
    assert seen == ["mirror map"]
    assert "has a star" not in (tmp_path / "README.md").read_text()
    assert not list((tmp_path / "cells").glob("*.lock"))


def test_times_are_in_units_of_the_machine(suite, tmp_path):
    rows = {"unconstrained": {"sampling_seconds": 3.0}}
    base = {"training_seconds": 8.0, "rows": rows, "unit": 2.0, "machine": {"library": "0.2.0"}}
    quick = {"training_seconds": 4.0, "rows": {"other": {"sampling_seconds": 1.5}}, "unit": 0.5}
    quick["machine"] = base["machine"]
    read = {
        title: next(m.read for m in suite.page.MEASURES if m.title == f"{title} time")
        for title in ("training", "sampling")
    }
    assert read["training"](quick, "other", base) == pytest.approx(2.0)  # half the time on a machine four times as fast
    assert read["sampling"](quick, "other", base) == pytest.approx(2.0)
    del quick["unit"]
    assert read["training"](quick, "other", base) is None
    del base["unit"]
    assert read["training"](quick, "other", base) == pytest.approx(0.5)
    assert suite.run.unit() > 0


def test_an_interrupted_cell_is_tried_again(suite, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite.run, "cell", stop)
    with pytest.raises(KeyboardInterrupt):
        suite.run.main(["--quick", "--tasks", "spiral", "--methods", "reflected", "--out", str(tmp_path)])
    assert not list((tmp_path / "cells").iterdir())


def test_a_method_that_fails_is_a_result(suite, monkeypatch, capsys):
    method = suite.methods.METHODS["reflected"]
    monkeypatch.setattr(method, "fit", lambda *_: (_ for _ in ()).throw(ValueError("diverged\nin two lines")))
    found = suite.run.cell("ring", method, suite.run.QUICK, 0, 200)
    assert found["failed"] == "ValueError: diverged"
    assert suite.run.cell("ring", suite.methods.METHODS["log-barrier, implicit"], suite.run.QUICK, 0, 200)["refused"]


def test_the_best_row_and_those_that_tie_with_it(suite):
    measure = suite.page.MEASURES[0]
    rows = {
        name: {measure.title: values} for name, values in {"a": [1.0, 1.2], "b": [1.1, 1.5], "c": [2.0, 2.1]}.items()
    }
    assert suite.page.winners(measure, rows) == {"a", "b"}
    rows[suite.methods.REFERENCE] = {measure.title: [0.1]}  # is no model
    assert suite.page.winners(measure, rows) == {"a", "b"}
    assert suite.page.written(measure, [1.0, 1.2, 3.0]) == "1.20 (1.00 .. 3.00)"


def test_who_leads_and_where_this_library_is(suite):
    distance, likelihood = suite.page.MEASURES[0], suite.page.MEASURES[5]
    own = {"reflected", "reflected, ODE"}

    def leader(measure, **values):
        rows = {name.replace("_", ", "): {measure.title: found} for name, found in values.items()}
        return suite.page.leader(measure, rows, own, {"mirror map"})

    theirs, ours = {"unconstrained": [1.0, 1.2, 1.3]}, {"reflected": [1.5], "reflected_ODE": [1.4]}
    assert leader(distance, **theirs, **ours) == "unconstrained 1.20; reflected, ODE 1.40"
    assert leader(distance, **theirs, reflected=[1.25, 1.5]) == "**unconstrained 1.20; reflected 1.38**"
    assert leader(distance, **theirs, reflected=[0.5]) == "**reflected 0.50**"
    assert leader(distance, **theirs) == "unconstrained 1.20"
    assert leader(distance) == ""
    assert leader(likelihood, unconstrained=[1.0], reflected=[2.0]) == "**reflected 2.00**"
    assert leader(distance, **theirs, **ours | {"reflected": [1.25, 9.0]}) == "**unconstrained 1.20; reflected 5.12**"
    assert leader(distance, **{"mirror map": [1.0]}) == "mirror map\\* 1.00"
    reference = {suite.methods.REFERENCE: {distance.title: [0.1]}}
    assert suite.page.leader(distance, reference, own, set()) == ""


def test_remarks_stand_under_their_tables(suite, tmp_path):
    (tmp_path / "cells").mkdir()
    cell = json.loads((FOLDER / "results" / "cells" / "ring-reflected-0.json").read_text())
    cell["rows"] = {"reflected": cell["rows"]["reflected"]}
    (tmp_path / "cells" / "ring-reflected-0.json").write_text(json.dumps(cell))
    (tmp_path / "remarks.md").write_text(
        "# Remarks\n\n## all\n\nOf all.\n\n## ring\n\nOf the ring.\n\n## cube\n\nNo.\n"
    )
    suite.page.write(tmp_path)
    page = (tmp_path / "README.md").read_text()
    ends = [page.index(text) for text in ("## Who leads", "Of all.", "## ring in the disc", "Of the ring.")]
    assert ends == sorted(ends)
    assert "No." not in page
    assert f"| ring in the disc | **reflected {cell['rows']['reflected']['swd']:.2f}** |" in page
    (tmp_path / "remarks.md").write_text("## rong\n\nOf the ring.\n")
    with pytest.raises(ValueError, match="a heading is `all` or one of spiral, ring, .*, not rong"):
        suite.page.write(tmp_path)


def test_parts_run(suite, tmp_path, capsys):
    suite.micro.main(["--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "micro.json").read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["rows"]["square"]["noising"] > 0


def test_pace_is_over_the_baselines(suite, tmp_path, monkeypatch):
    """With a clock by which each model takes a known time a step, ratios are those of the times."""
    seconds = {"unconstrained": 2.0, "reflected": 3.0, "reflected, path targets": 8.0}
    clock = [0.0]

    def timed(name):
        def go(steps):
            clock[0] += seconds[name] * steps

        return go

    monkeypatch.setattr(suite.pace, "models", lambda setting, budget: {name: timed(name) for name in seconds})
    monkeypatch.setattr(suite.pace.time, "process_time", lambda: clock[0])
    suite.pace.main(["--quick", "--tasks", "spiral", "birkhoff", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "pace.json").read_text())["tasks"]
    assert rows["spiral"]["reflected"] == [1.5, 1.5, 1.5]
    assert rows["spiral"]["reflected, path targets"] == [4.0, 4.0, 4.0]
    assert rows["spiral"]["milliseconds a step"] == [2000.0, 2000.0, 2000.0]
    page = (tmp_path / "pace.md").read_text()
    assert "| spiral in the disc | 1.50 (1.50 - 1.50) | 4.00 (4.00 - 4.00) | 2000.00 |" in page
    assert "| Birkhoff 3 x 3 |  | 1.50 (1.50 - 1.50) | 2000.00 |" in page


def test_pace_trains_all_models_further(suite):
    goes = suite.pace.models(suite.tasks.task("ring"), suite.run.QUICK)
    assert list(goes) == ["unconstrained", "reflected", "reflected, path targets"]
    model = goes["reflected"](4)
    assert goes["reflected"](4) is model
    assert model.history_[-1][0] == 8


def test_scaling_runs_goes_on_where_it_was_and_mixes_nothing(suite, tmp_path, monkeypatch):
    path, options = tmp_path / "scaling.json", ["--quick", "--out", str(tmp_path)]
    suite.scaling.main(options)
    found = json.loads(path.read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["dimension"]["ball"]["2"]["SWD / floor"] > 0
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    del found["facets"]["12"]
    path.write_text(json.dumps(found))
    monkeypatch.setattr(suite.scaling, "quality", lambda *a: pytest.fail("measured again"))
    suite.scaling.main(options)
    assert json.loads(path.read_text())["facets"].keys() == {"12", "30"}
    path.write_text(json.dumps(found | {"budget": [2000, 4000]}))
    with pytest.raises(SystemExit, match="another machine, version or budget"):
        suite.scaling.main(options)
