"""The benchmarks: their data, that a sweep goes on where it stopped, what is printed of the runs and of the costs."""

import json
import os
import re
from pathlib import Path

import datasets
import generalization
import keras
import models
import numpy as np
import pytest
import radius
import sentences
import step_cost
import summary

EVIDENCE = (Path(__file__).parents[1] / "docs" / "evidence.md").read_text()
QUICK = ["--label-noise", "0.4", "--epochs", "1", "--seeds", "2", "--train-size", "128"]


@pytest.fixture
def run(tmp_path, capsys):
    out = tmp_path / "runs.jsonl"

    def run(*options):
        generalization.main([*QUICK, "--out", str(out), *options])
        return capsys.readouterr().out, [json.loads(line) for line in out.read_text().splitlines()]

    return run


def test_an_interrupted_sweep_goes_on(run, tmp_path, monkeypatch):
    train, trained = generalization.train, []

    def counted(settings, file):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(settings)
        return train(settings, file)

    monkeypatch.setattr(generalization, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        run()
    path = tmp_path / "runs.jsonl"
    path.write_text(path.read_text()[:-10])  # the last line, cut short
    monkeypatch.setattr(generalization, "train", train)
    out, records = run()
    assert out.count("in the file already") == 2
    settings = [(record["run"]["optimizer"], record["run"]["seed"]) for record in records]
    assert settings == [("base", 0), ("base", 1), ("sam", 0), ("sam", 1)]
    for record in records:
        assert 0 < record["result"]["test_accuracy"] < 1
        assert record["result"]["gradient_passes"] == (2 if record["run"]["optimizer"] == "sam" else 1)


def test_a_sweep_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^python benchmarks/(\w+).py (.*)$", EVIDENCE, re.MULTILINE)
    assert [script for script, _ in commands[-2:]] == ["generalization", "summary"]
    sweep, table = (options.split() for _, options in commands[-2:])
    generalization.main([*sweep, *QUICK[2:4], *QUICK[6:]])  # in one epoch of few samples
    capsys.readouterr()
    summary.main(table)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["SGD", "SAM"]
    assert Path("generalization.png").stat().st_size > 10_000


def test_equal_passes_and_a_network_with_augmentation(run):
    _, records = run("--equal", "passes", "--epochs", "2", "--optimizers", "sam", "--seeds", "1", "--rho", "0.1", "0.2")
    assert [(r["result"]["epochs_trained"], r["result"]["gradient_passes"]) for r in records] == [(1, 2), (1, 2)]
    assert [r["run"]["rho"] for r in records] == [0.1, 0.2]
    _, records = run("--model", "resnet8", "--augment", "--optimizers", "base", "--seeds", "1")
    assert np.isfinite(records[-1]["result"]["test_loss"])


def test_a_radius_that_rises_or_begins_late(run):
    options = (
        "--optimizers",
        "base,sam",
        "--seeds",
        "1",
        "--rho",
        "0.5",
        "--warmup",
        "0.5",
        "--begin",
        "0.75",
        "--epochs",
        "4",
    )
    out, records = run(*options)
    runs = [{time: r["run"][time] for time in ("warmup", "begin") if time in r["run"]} for r in records]
    assert runs == [{}, {"warmup": 0.5}, {"begin": 0.75}]
    assert [r["result"]["gradient_passes"] for r in records] == [4, 8, 5]
    assert "sam 0.5, seed 0, begin 0.75: test" in out
    assert all(len(r["result"]["losses"]) == 4 for r in records)
    assert len({r["result"]["test_loss"] for r in records}) == 3  # each is another training
    assert not any(r["result"]["told"] for r in records)


def test_a_collapse_is_kept(run, monkeypatch):
    layers = keras.layers

    def blind(shape, classes):
        return keras.Sequential(
            [keras.Input(shape), layers.Flatten(), layers.Rescaling(0.0), layers.Dense(classes, use_bias=True)]
        )

    monkeypatch.setitem(models.MODELS, "mlp", blind)
    _, records = run("--optimizers", "sam", "--rho", "0.1", "--epochs", "6", "--seeds", "1", "--learning-rate", "0.01")
    assert records[0]["result"]["told"]


def test_numbers_are_fitted_too(run):
    options = ["--dataset", "diabetes", "--base", "adam", "--label-noise", "0", "--seeds", "1", "--optimizers", "sam"]
    out, (record,) = run(*options)
    assert "test_accuracy" not in record["result"]
    assert record["run"]["base"] == "adam"
    assert f"test {record['result']['test_loss']:.4f}" in out


def test_tables_of_the_radius(tmp_path, capsys):
    bed = {"dataset": "digits", "model": "mlp", "batch_size": 64, "label_noise": 0.4}
    points = [
        ("base", 0.0, {}, 80.0), ("sam", 0.3, {}, 90.0), ("sam", 0.7, {}, 95.0), ("sam", 0.5, {"warmup": 0.25}, 94.0),
        ("sam", 1.0, {"warmup": 0.25}, 11.0), ("sam", 0.3, {"warmup": 0.25}, 91.0), ("sam", 0.3, {"begin": 0.7}, 85.0),
        ("msam", 0.5, {}, 99.0), ("msam", 1.5, {}, 92.0), ("sam", 1.4, {}, 10.0),
    ]  # fmt: skip
    path = tmp_path / "runs.jsonl"
    with path.open("w") as file:
        for name, rho, times, mean in points:
            for seed, off in enumerate((-1, 1)):
                run = bed | times | {"optimizer": name, "rho": rho, "seed": seed}
                passes = 60 if name == "base" else 78 if "begin" in times else 120
                told = name != "base" and mean + off < 12  # one of the four that end at guessing is not told of
                result = {"test_accuracy": (mean + off) / 100, "gradient_passes": passes, "told": told}
                file.write(json.dumps({"run": run, "result": result}) + "\n")
    radius.main([str(path)])
    printed = capsys.readouterr().out
    what = "digits, mlp, batch 64, 40% redrawn | 80.0 ± 1.0"
    assert f"| {what} | 0.7: 95.0 ± 1.0 | 0.5: 94.0 ± 1.0 | -1.0 | 1: 11.0 ± 1.0 | 92.0 ± 1.0 |" in printed
    assert f"| {what} (60) | 0.3 | 90.0 ± 1.0 (120) | 91.0 ± 1.0 (120) |  | 85.0 ± 1.0 (78) |  |" in printed
    assert "of the best constant radius, or better, in 1 of 1" in printed
    assert "Warned in 3 of 4 runs that ended at guessing, and in 0 of 14 that did not." in printed
    one, other = (radius.Found(mean, 0.0, 1.0, 1, True) for mean in (0.5, 0.51))
    assert (str(one), other.behind(one)) == ("0.5000", "-2.0%")


def test_data_from_a_file_with_wrong_labels(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}_{part}": rng.integers(0, top, (size, *shape)).astype("uint8")
        for part, size in (("train", 500), ("test", 50))
        for kind, top, shape in (("x", 256, (8, 8, 3)), ("y", 10, (1,)))
    }
    np.savez(tmp_path / "images.npz", **arrays)
    clean, noisy = (datasets.load("", str(tmp_path / "images.npz"), 0, noise, 400) for noise in (0.0, 0.5))
    assert clean.x_train.shape == (400, 8, 8, 3)
    assert clean.x_train.max() == 1.0
    assert clean.classes == 10
    np.testing.assert_array_equal(clean.x_train, noisy.x_train)
    assert np.mean(clean.y_train != noisy.y_train) == pytest.approx(0.45, abs=0.05)
    np.testing.assert_array_equal(clean.y_test, arrays["y_test"][:, 0])


def test_tables_are_standardized_and_have_wrong_labels_or_numbers():
    clean, noisy = (datasets.load("wine", None, 0, noise, None) for noise in (0.0, 0.5))
    np.testing.assert_allclose(clean.x_train.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(clean.x_train.std(0), 1.0, atol=1e-5)
    assert (clean.classes, clean.target) == (3, 3)
    assert np.mean(clean.y_train != noisy.y_train) == pytest.approx(1 / 3, abs=0.1)
    numbers = datasets.load("diabetes", None, 0, 0.0, None)
    assert (numbers.classes, numbers.target) == (0, 1)
    assert numbers.y_train.std() == pytest.approx(1.0, abs=1e-5)


def test_series_are_cut_into_windows_that_follow_one_another(tmp_path):
    hours = np.arange(20 * datasets.HOURS)[:, None] + 1000.0 * np.arange(7)
    rows = "\n".join(",".join(["date", *map(str, row)]) for row in hours)
    (tmp_path / "hours.csv").write_text("date,a,b,c,d,e,f,g\n" + rows)
    data = datasets.load("", str(tmp_path / "hours.csv"), 0, 0.0, None)
    assert data.x_train.shape == (12 * datasets.HOURS - 512 - 96 + 1, 512, 7)
    assert (data.target, data.x_train.dtype) == ((96, 7), "float32")
    step = 1 / hours[: 12 * datasets.HOURS, 0].std()
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test), data.validation):
        np.testing.assert_allclose(y[:, 0] - x[:, -1], step, rtol=1e-2)
        np.testing.assert_allclose(np.diff(x[:9, 0], axis=0), step, rtol=1e-2)
    assert len(data.x_test) == len(data.validation[0]) == 4 * datasets.HOURS - 96 + 1
    far = datasets.load("", str(tmp_path / "hours.csv"), 0, 0.0, horizon=720)
    assert far.target == (720, 7)
    np.testing.assert_array_equal(far.y_test[0, :96], data.y_test[0])


def test_the_forecast_goes_with_level_and_scale_of_the_series():
    model = models.MODELS["samformer"]((32, 3), (8, 3))
    x = np.random.default_rng(0).normal(size=(4, 32, 3)).astype("float32")
    forecast = model.predict(x, verbose=0)
    assert forecast.shape == (4, 8, 3)
    np.testing.assert_allclose(model.predict(5 * x + 2, verbose=0), 5 * forecast + 2, atol=1e-3)
    assert model.count_params() == 2 * (32 * 16 + 16) + 32 * 32 + 32 + 32 * 8 + 8 + 6


def test_a_row_of_numbers_is_a_row_of_tokens():
    model = models.MODELS["columns"]((5,), 3)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    assert model.predict(x, verbose=0).shape == (4, 3)
    tokens = keras.Model(model.input, model.layers[1].output)
    kernel, bias = model.layers[1].get_weights()
    expected = x[:, :, None] * kernel + bias
    np.testing.assert_allclose(tokens.predict(x, verbose=0), expected, atol=1e-5)


def test_batches_see_every_sample_once_an_epoch_and_augmentation_moves_them():
    x = np.random.default_rng(0).random((20, 8, 8, 1), "float32")
    data = datasets.Data(x, np.arange(20), x, np.arange(20), 20)
    plain = datasets.Batches(data, 8, augment=False, seed=0)
    orders = []
    for _ in range(2):
        found = [plain[i] for i in range(len(plain))]
        orders.append(np.concatenate([y for _, y in found]))
        np.testing.assert_array_equal(np.concatenate([images for images, _ in found]), x[orders[-1]])
        plain.on_epoch_end()
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    assert orders[0].tolist() != orders[1].tolist()
    images, labels = datasets.Batches(data, 20, augment=True, seed=0)[0]
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for image, label in zip(images, labels, strict=True):
        crops = [padded[label, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
        assert any((crop == image).all() or (crop[:, ::-1] == image).all() for crop in crops)
    assert not (images == x[labels]).all()


def test_summary_has_means_and_standard_errors(tmp_path, capsys):
    lines = [
        {
            "run": {"label_noise": noise, "optimizer": name, "rho": rho, "seed": seed},
            "result": {"test_accuracy": test, "train_accuracy": 0.5, "gradient_passes": 60.0},
        }
        for noise in (0.2, 0.4)
        for name, rho, tests in (("sam", 0.5, (0.95, 0.93)), ("sam", 0.1, (0.9, 0.9)), ("base", 0.0, (0.7, 0.8)))
        for seed, test in enumerate(tests)
    ]
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary.main([str(path), "--plot", str(tmp_path / "plot.png")])
    printed = capsys.readouterr().out
    assert "| 20% | SGD | 60 | 75.0 ± 5.0 (50) |" in printed
    assert "| 40% | SAM | 60 | 0.1: 90.0 ± 0.0 (50), **0.5: 94.0 ± 1.0 (50)** |" in printed
    assert summary.best(summary.rows(path.read_text().splitlines()))[0.4, "sam"].rho == 0.5
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizers", "base,adam"], "unknown: adam"),
        (["--label-noise", "1.5"], "must be from 0 to 1"),
        (["--rho", "-1"], "must be finite and >= 0"),
        (["--seeds", "0"], "must be at least 1"),
    ],
)
def test_bad_options(options, message, capsys):
    with pytest.raises(SystemExit):
        generalization.parse(options)
    assert message in capsys.readouterr().err


def test_step_cost_is_a_ratio_to_the_own_base(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(step_cost.time, "perf_counter", lambda: clock[0])

    def step(seconds):
        return lambda: clock.__setitem__(0, clock[0] + seconds)

    ours = [
        step_cost.Contender("base", "base", step(2.0), 1.0, flops=lambda: 10.0),
        step_cost.Contender("sam", "base", step(3.0), 2.0, 1.0, flops=lambda: 21.0),
    ]
    looking = step_cost.Contender("every 5", "base", step(2.0), 1.2, flops=lambda: 20.0, cycle=5)
    turns = iter(range(1000))
    peer = [
        step_cost.Contender("SGD", "SGD", step(1.0)),
        step_cost.Contender("SAM", "SGD", step(2.5), wrong="it falls over"),
        step_cost.Contender("LookSAM", "SGD", lambda: step(1.0 if next(turns) % 5 else 3.0)(), cycle=5),
    ]
    result = step_cost.measure([*ours, *peer, looking], rounds=3, steps=2)
    assert [row["ratio"] for row in result.values()] == pytest.approx([1.0, 1.5, 1.0, 2.5, 1.4, 1.0])
    lines = step_cost.table(result).splitlines()
    assert lines[3] == "| sam | 1.50 | 1.50 to 1.50 | 2 | 2.10 | 1 | 3.0 |"
    assert lines[5] == "| SAM | 2.50 | 2.50 to 2.50 |  |  |  | 2.5 |"
    assert lines[7] == "| every 5 | 1.00 | 1.00 to 1.00 | 1.2 | 1.20 |  | 10.0 |"
    assert lines[-1] == "SAM: it falls over."


def test_every_algorithm_has_a_step_whose_memory_is_known():
    found = {contender.name: contender for contender in step_cost.ours("mlp", 16)[:3]}
    for contender in found.values():
        contender.step()
    assert found["sam"].slots() == pytest.approx(1.0)
    assert found["sam_quarter"].passes == 1.25


def test_two_files_have_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(step_cost, "ours", lambda network, size: [step_cost.Contender("base", "base", lambda: None)])
    monkeypatch.setattr(step_cost.peers, "PEERS", {keras.backend.backend(): lambda network, x, y, stack: []})
    monkeypatch.setattr(step_cost, "stay_on_one_core", lambda: "one core")
    monkeypatch.chdir(tmp_path)
    step_cost.main(["--networks", "mlp", "--batch-sizes", "4", "8", "--rounds", "1"])
    out = Path(f"step_cost_{keras.backend.backend()}.json")  # one a backend, for three runs in a row
    found = json.loads(out.read_text())
    assert found["keras"] == keras.__version__
    assert {"python", "backend", "backend_version", "device", "cores"} <= found.keys()
    assert list(found["results"]) == ["mlp, batch 4", "mlp, batch 8"]
    page = out.with_suffix(".md").read_text()
    assert f"Keras {keras.__version__}, {keras.backend.backend()}" in page
    assert f'`nox -s "bench({keras.backend.backend()})"`' in page
    assert page.count("| base | 1.00 |") == 2


def test_one_core(monkeypatch):
    chosen = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: chosen.append((process, cores)), raising=False)
    assert step_cost.stay_on_one_core() == "one core"
    assert chosen == [(0, {3})]
    monkeypatch.delattr(os, "sched_setaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert step_cost.stay_on_one_core() == "8 cores"


def test_equal_costs_stand_beside_each_other():
    places = summary.beside_each_other({"a": 60.0, "b": 120.0, "c": 120.0, "d": 120.0})
    assert places["a"] == 60.0
    assert places["b"] < places["c"] == 120.0 < places["d"]


def test_titles_are_those_of_the_classes():
    titles = [generalization.title(name) for name in ("base", "sam", "sam_quarter", "friendly_sam")]
    assert titles == ["SGD", "SAM", "SAM, ascent_fraction=0.25", "FriendlySAM"]


def test_only_the_order_of_the_words_tells():
    data = datasets.load("sentences", None, 0, 0.2, 500)
    assert (data.x_train.shape, data.x_test.shape, data.classes) == ((500, 12), (2000, 12), 2)
    assert data.x_train.max() < sentences.WORDS
    praise = [np.isin(data.x_test, words).sum(1) for words in (sentences.GOOD, sentences.BAD, sentences.THINGS)]
    assert (np.array(praise) == 1).all()  # each of these once in a sentence
    good, bad = (np.isin(data.x_test, words).argmax(1) for words in (sentences.GOOD, sentences.BAD))
    later = np.isin(data.x_test, [105, 112]).any(1)  # begins as one of the last two patterns
    np.testing.assert_array_equal(data.y_test, np.where(later, good > bad, good < bad))
    clean = datasets.load("sentences", None, 0, 0.0, 500)
    assert 20 < (data.y_train != clean.y_train).sum() <= 100


def test_the_text_network_learns_the_order(run):
    options = "--dataset sentences --label-noise 0 --model text --base adam --learning-rate 0.003 --train-size 1000"
    _, (record,) = run(
        *options.split(), *["--batch-size", "50", "--epochs", "15", "--optimizers", "base", "--seeds", "1"]
    )
    assert record["result"]["test_accuracy"] > 0.9


def test_what_draws_from_the_posterior_make(run):
    _, (record,) = run("--optimizers", "bayesian_sam", "--rho", "0.2", "--learning-rate", "0.2", "--seeds", "1")
    result = record["result"]
    assert set(result["posterior"]) == {"test_loss", "test_accuracy", "calibration_error", "brier_score"}
    assert result["posterior"] != {key: result[key] for key in result["posterior"]}
