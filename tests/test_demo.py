"""The demo: its table and plot, its errors, and that SAM wins on wrong labels."""

import math
import re
import sys

import keras
import numpy as np
import pytest

from keras_sam import analysis, demo


@pytest.fixture(autouse=True)
def _threads():
    """The demo limits the threads of PyTorch; other tests shall not notice."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


SGD_RUNS = {}


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs the demo with the given options; returns the exit code, what it printed, and its table by run.

    The same run of SGD, which is the other half of most of them, is made once.
    """
    train = demo.train

    def train_sgd_once(name, wrap, data, epochs, seed):
        key = (data.y_given.tobytes(), epochs, seed, demo.measure)
        if wrap is not None:
            return train(name, wrap, data, epochs, seed)
        if key not in SGD_RUNS:
            SGD_RUNS[key] = train(name, wrap, data, epochs, seed)
        return SGD_RUNS[key]

    monkeypatch.setattr(demo, "train", train_sgd_once)
    monkeypatch.setattr(demo, "LANDSCAPE_POINTS", 3)

    def run(*options):
        code = demo.main([*options, "--out", str(tmp_path / "plot.png")])
        out, err = capsys.readouterr()
        row = r"^(\w+) +([\d.]+)% +([\d.]+)% +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +(-?[\d.]+)$"
        rows = {name: [float(n) for n in numbers] for name, *numbers in re.findall(row, out, re.MULTILINE)}
        return code, out, err, rows

    return run


def flat(model, data):
    return demo.Minimum(0.1, 1.0, analysis.Landscape(np.linspace(-1, 1, 3), np.ones((3, 3))))


@pytest.fixture
def _unmeasured(monkeypatch):
    """For tests that do not ask how sharp the minima are, as measuring takes longer than training."""
    monkeypatch.setattr(demo, "measure", flat)


def test_a_short_run_prints_the_table_and_writes_the_plot(run, tmp_path):
    code, out, err, rows = run("--epochs", "2")
    assert code == 0
    assert err == ""
    assert keras.backend.backend() in out.splitlines()[0]
    assert "rho=0.5" in out
    assert "2/2" in out  # Keras's progress bar
    assert list(rows) == ["SGD", "SAM"]
    for train_accuracy, test_accuracy, steps, _, _, sharpness, top_eigenvalue in rows.values():
        assert sharpness > 0
        assert top_eigenvalue > 0
        assert 10 < train_accuracy < 80
        assert 10 < test_accuracy < 100
        assert steps == 2 * math.ceil(1437 / 64)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_table_sets_each_run_beside_the_first():
    sharp, wide = (demo.Minimum(0.5, 20.0, None), demo.Minimum(0.1, 1.5, None))
    runs = [
        demo.Run("SGD", [1.0], 0.5, [0.1, 0.25], 46, 2.0, sharp),
        demo.Run("SAM", [1.0], 0.75, [0.9], 46, 5.0, wide),
    ]
    assert [line.split() for line in demo.table(runs).splitlines()[2:]] == [
        ["SGD", "50.0%", "25.0%", "46", "2.0", "1.00", "0.5000", "20.00"],
        ["SAM", "75.0%", "90.0%", "46", "5.0", "2.50", "0.1000", "1.50"],
    ]


@pytest.mark.usefixtures("_unmeasured")
def test_both_runs_start_alike_and_see_the_same_batches(run):
    code, _, _, rows = run("--epochs", "2", "--rho", "0", "--seed", "5")
    assert code == 0
    assert rows["SAM"][:2] == pytest.approx(rows["SGD"][:2], abs=1)


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_sam_is_ahead_by_ten_points_on_clean_test_digits_in_a_flatter_minimum(run, seed):
    code, _, _, rows = run("--seed", seed)
    assert code == 0
    assert rows["SAM"][1] >= rows["SGD"][1] + 10
    assert rows["SAM"][5] < rows["SGD"][5] / 2  # sharpness
    assert rows["SAM"][6] < rows["SGD"][6] / 2  # top eigenvalue


@pytest.mark.usefixtures("_unmeasured")
@pytest.mark.parametrize("name", [name for name in demo.OPTIMIZERS if name != "sam"])
def test_every_algorithm_is_ahead_of_sgd(run, name):
    code, out, _, rows = run("--optimizer", name, "--epochs", "25")
    assert code == 0
    (sgd, found) = rows.values()
    assert found[1] > sgd[1] + 1
    assert f"takes {demo.OPTIMIZERS[name][0]('sgd').gradient_passes:g} gradient passes" in out


@pytest.mark.usefixtures("_unmeasured")
def test_a_run_that_did_not_train_is_told_from_one_that_did(run):
    code, _, err, rows = run("--epochs", "2", "--rho", "1e6")
    assert code == 1
    assert re.fullmatch(r"SAM did not train: .*\n", err)
    assert list(rows) == ["SGD", "SAM"]


def test_a_loss_that_is_not_finite_is_a_failure():
    data = demo.load_data(0.4, 0)
    good = demo.Run("SGD", [2.0, 1.0], 0.6, [0.8, 0.9], 44, 1.0, demo.Minimum(0.5, 20.0, None))
    assert demo.failure(good, data) is None
    assert "not finite" in demo.failure(good._replace(losses=[2.0, math.nan]), data)


def test_noise_is_the_share_of_train_labels_that_is_redrawn():
    clean, noisy, again, other = (demo.load_data(*a) for a in [(0.0, 0), (0.4, 0), (0.4, 0), (0.4, 1)])
    np.testing.assert_array_equal(clean.y_given, clean.y_true)
    assert np.mean(noisy.y_given != noisy.y_true) == pytest.approx(0.4 * 0.9, abs=0.02)
    np.testing.assert_array_equal(noisy.y_test, clean.y_test)
    np.testing.assert_array_equal(noisy.y_given, again.y_given)
    assert not np.array_equal(noisy.x_train, other.x_train)
    assert noisy.x_train.min() == 0
    assert noisy.x_train.max() == 1
    assert len(noisy.x_train) + len(noisy.x_test) == 1797


@pytest.mark.parametrize(
    "options",
    [
        *["--noise 1.01", "--noise nan", "--rho -0.1", "--rho inf", "--epochs 0", "--epochs 1.5", "--seed -1"],
        *["--optimizer adam", "--out nowhere/plot.png", "--out plot.pdf"],
    ],
)
def test_a_wrong_argument_is_named(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        demo.main(options.split())
    assert exit_.value.code == 2
    assert f"error: argument {options.split()[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("extra", ["sklearn", "matplotlib"])
def test_a_missing_extra_is_one_line_that_says_what_to_install(extra, run, monkeypatch):
    monkeypatch.setitem(sys.modules, extra, None)
    code, out, err, _ = run()
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    assert 'pip install "keras_sam[demo]"' in err
