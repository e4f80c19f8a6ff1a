"""Reports: every figure is that of its measure and stands on the page, and the page is whole."""

import base64
import html.parser
import io
import json

import keras
import numpy as np
import pytest
from conftest import SAMSequential
from keras import layers
from matplotlib.image import imread
from test_sharpness import Once

import keras_sam
from keras_sam import analysis
from keras_sam.analysis.objective import Objective
from keras_sam.analysis.reporting.page import _row, shown
from keras_sam.analysis.reporting.sections import SECTIONS, Settings

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SMALL = {"rho": 0.1, "k": 2, "trace_samples": 3, "points": 3, "batch_size": 40}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 5)).astype("float32"), rng.integers(0, 3, 40)


def classifier(optimizer="sgd"):
    model = SAMSequential([keras.Input((5,)), layers.Dense(4, activation="tanh"), layers.Dropout(0.2), layers.Dense(3)])
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def two(data):
    keras.utils.set_random_seed(0)
    models, made = {"SGD <plain>": classifier(), "SAM": classifier(keras_sam.SAMOptimizer("sgd", rho=0.1))}, []
    gradient, products = Objective.gradient, Objective.products

    def counted_gradient(self, *args):
        made.append(1)
        return gradient(self, *args)

    def counted_products(self, vectors):
        made.append(2 * vectors.shape[1])
        return products(self, vectors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "gradient", counted_gradient)
        patch.setattr(Objective, "products", counted_products)
        found = analysis.report(models, *data, title="Two & more", **SMALL)
    return models, found, sum(made)


@pytest.fixture(scope="module")
def page(two, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    two[1].save(path)
    parser = Page()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    return parser


class Page(html.parser.HTMLParser):
    """Its text, images and links; that every element is closed where it should be."""

    EMPTY = ("meta", "img", "wbr")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.images, self.tags, self.links = [], [], [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and not value.startswith("data:")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def leaves(figures):
    if isinstance(figures, dict):
        return [leaf for key, value in figures.items() for leaf in [key, *leaves(value)]]
    return [figures]


def test_figures_are_those_of_the_measures(two, data):
    models, found, _ = two
    options = {"batch_size": 40, "verbose": 0}
    for name, model in models.items():
        figures = found.to_dict()["models"][name]
        spectrum = analysis.hessian_eigenvalues(model, *data, k=2, **options)
        trace = analysis.hessian_trace(model, *data, samples=3, **options)
        plane = analysis.loss_landscape(model, *data, dimensions=2, points=3, **options)
        known = analysis.calibration(model, *data)
        assert figures["sharpness"]["sharpness"] == analysis.sharpness(model, *data, rho=0.1, **options)
        assert figures["curvature"] == {"top eigenvalues": spectrum.values.tolist(), "converged": True}
        assert figures["trace"] == {"Hessian trace": trace.value, "standard error": trace.standard_error}
        average = analysis.average_sharpness(model, *data, rho=0.1, **options)
        assert figures["average sharpness"] == {
            "mean rise": average.value,
            "its standard error": average.standard_error,
        }
        layers_found = found.results[name]["sharpness by layer"]
        np.testing.assert_array_equal(layers_found.values, analysis.by_layer(model, *data, rho=0.1, **options).values)
        density = analysis.spectral_density(model, *data, **options).density
        np.testing.assert_array_equal(found.results[name]["density"].density, density)
        np.testing.assert_array_equal(found.results[name]["landscape"].losses, plane.losses)
        assert figures["calibration"] == {
            "expected calibration error": known.expected_calibration_error,
            "log-likelihood": known.log_likelihood,
            "Brier score": known.brier_score,
        }
        passes = {section: cost["gradient passes"] for section, cost in figures["cost"].items()}
        assert passes == {
            "evaluation": 0,
            "sharpness": 1,
            "average sharpness": 0,
            "sharpness by layer": 1,
            "density": 2 * found.results[name]["density"].products,
            "curvature": 2 * spectrum.products,
            "trace": 2 * trace.products,
            "landscape": 0,
            "calibration": 0,
        }
        assert figures["model"]["parameters"] == 39
        evaluated = model.evaluate(*data, verbose=0, return_dict=True)
        assert figures["evaluation"] == pytest.approx({n: evaluated[n] for n in ("loss", "accuracy")}, rel=1e-5)
    assert figures["model"]["optimizer"] == "SAMOptimizer(rho=0.1) around SGD(learning_rate=0.01)"


def test_gradient_passes_are_those_that_were_made(two):
    _, found, made = two
    assert made == sum(cost["gradient passes"] for costs in found.costs.values() for cost in costs.values())


def test_the_page_has_every_figure(two, page):
    text = " ".join("".join(page.text).split())
    for leaf in leaves(two[1].to_dict()["models"]) + leaves(two[1].about):
        assert leaf in (
            "cost",
            "seconds",
            "gradient passes",
            "report",
            "title",
            "date",
            "samples",
            "landscape",
            "density",
        ) or (" ".join(shown(leaf).split()) in text)
    assert "SGD <plain> and SAM on 40 samples" in text
    assert "Two & more" in text


def test_how_figures_are_shown():
    figures = [0.0123456, -1e-7, 1234567, True, [2.0, 3.5], "SGD"]
    assert [shown(value) for value in figures] == [
        "0.01235",
        "\N{MINUS SIGN}1e\N{MINUS SIGN}07",
        "1,234,567",
        "yes",
        "2, 3.5",
        "SGD",
    ]
    assert _row("a<b", ["<i>"], "x&y") == "<tr><th>a&lt;b<small>x&amp;y</small></th><td>&lt;i&gt;</td></tr>"


def test_the_page_is_whole_and_alone(page):
    assert page.open == []
    assert page.links == []
    assert not page.tags & {"script", "link", "iframe"}


def test_pictures_are_inside(page):
    names = [image["alt"] for image in page.images]
    assert names == [
        "sharpness by layer: SGD <plain>",
        "sharpness by layer: SAM",
        "curvature: SGD <plain>, SAM",
        "density: SGD <plain>, SAM",
        "landscape: SGD <plain>",
        "landscape: SAM",
        "calibration: SGD <plain>",
        "calibration: SAM",
    ]
    for image in page.images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        pixels = imread(io.BytesIO(base64.b64decode(content, validate=True)), format="png")
        height, width = pixels.shape[:2]
        assert width / height == pytest.approx(int(image["width"]) / int(image["height"]))
        assert pixels.std() > 0.05


def test_figures_can_be_kept_as_json(two):
    found = two[1].to_dict()
    assert json.loads(json.dumps(found)) == found


def test_a_regressor_has_no_calibration(data, tmp_path):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, activation="sigmoid")], name="regressor")
    model.compile(loss="mse", metrics=["mae"])  # whose outputs might be probabilities
    found = analysis.report(model, data[0], np.full((40, 1), 0.5), **SMALL)
    figures = found.to_dict()["models"]["regressor"]
    assert list(figures["evaluation"]) == ["loss", "mae"]
    assert figures["calibration"] == {"not measured": "the model is no classifier, by its loss and metrics"}
    found.save(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "the model is no classifier" in text
    assert text.count("<img") == 4


def test_a_classifier_of_two_kinds_of_output_has_no_calibration(data):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, {"a": layers.Dense(3, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)})
    model.compile(loss={"a": LOSS, "b": "mse"})
    (section,) = [section for section in SECTIONS if section.name == "calibration"]
    settings = Settings(0.1, 2, 3, 1.0, 3, 40, 0)
    found = section.measure(model, data[0], {"a": data[1], "b": np.ones((40, 1), "float32")}, settings)
    assert "one of several outputs" in found.reason


def state(model):
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(v) for v in variables], [
        getattr(layer, "training", None) for layer in model.layers
    ]


def test_a_model_stays_as_it_was(data, monkeypatch):
    model = classifier(keras_sam.SAMOptimizer("adam"))
    model.fit(*data, batch_size=20, verbose=0)
    before = state(model)
    found = analysis.report(model, *data, **SMALL)
    compare(state(model), before)
    figures = found.results[model.name]["evaluation"]  # with nothing in it of the metrics of `fit`
    assert figures["accuracy"] == pytest.approx(
        model.evaluate(*data, verbose=0, return_dict=True)["accuracy"], abs=1e-6
    )
    before = state(model)
    monkeypatch.setattr(model, "compute_metrics", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        analysis.report(model, *data, **SMALL)
    compare(state(model), before)


def compare(found, expected):
    assert all(np.array_equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
    assert found[1] == expected[1]


def test_batches_of_a_data_set(two, data):
    x, y = data
    models, found, _ = two
    batches = analysis.report(models["SAM"], [(x[:20], y[:20]), (x[20:], y[20:])], **SMALL)
    figures, expected = batches.to_dict()["models"][models["SAM"].name], found.to_dict()["models"]["SAM"]
    for section in ("evaluation", "sharpness", "trace", "calibration"):
        assert figures[section] == pytest.approx(expected[section], rel=1e-4, abs=1e-6)
    assert batches.about["report"]["samples"] == 40


def test_bad_input(data):
    model = classifier()
    with pytest.raises(ValueError, match=r"There must be a model at least. Received: models=\{\}"):
        analysis.report({}, *data)
    with pytest.raises(ValueError, match=r"`rho` must be a float >= 0. Received: rho=-1"):
        analysis.report(model, *data, **SMALL | {"rho": -1})
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    with pytest.raises(ValueError, match=r"The loss must be finite to be measured. Received: nan"):
        analysis.report(model, *data, **SMALL)


def test_a_single_weight(capsys):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)], name="one")
    model.compile(loss="mse")
    found = analysis.report(model, np.ones((4, 1)), np.ones((4, 1)), **SMALL, verbose=1)
    assert "9/9" in capsys.readouterr().out
    figures = found.to_dict()["models"]["one"]
    assert figures["curvature"]["top eigenvalues"] == pytest.approx([2.0])
    assert figures["trace"]["Hessian trace"] == pytest.approx(2.0)


def test_curvature_that_is_not_finite_leaves_the_rest_measured():
    outputs = layers.Lambda(lambda x: keras.ops.sqrt(keras.ops.abs(x)) ** 3)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False, kernel_initializer="zeros"), outputs])
    model.compile(loss="mse")
    found = analysis.report({"zero": model}, np.ones((4, 2)), np.ones((4, 1)), **SMALL)
    figures = found.to_dict()["models"]["zero"]
    for section in ("curvature", "trace", "density"):
        assert "The curvature must be finite to be measured" in figures[section]["not measured"]
    assert figures["evaluation"]["loss"] == pytest.approx(1.0)
    assert figures["average sharpness"]["mean rise"] != 0


def test_reliability_diagrams(tmp_path):
    sure = analysis.Calibration(0.2, -1.0, 0.5, 0.6, np.array([0.6, 1.0]), np.array([0.5, 0.7]), np.ones(2) / 2, 10)
    calm = analysis.Calibration(0.0, -0.5, 0.3, 0.8, np.array([0.7, 0.9]), np.array([0.7, 0.9]), np.ones(2) / 2, 10)
    drawn = analysis.plot_reliability({"SGD": sure, "SAM": calm})
    assert [ax.get_title() for ax in drawn] == ["SGD: ECE 20.0%", "SAM: ECE 0.0%"]
    diagonal, bins = drawn[0].lines
    np.testing.assert_array_equal(*diagonal.get_data())
    np.testing.assert_array_equal(bins.get_xydata(), [[0.6, 0.5], [1.0, 0.7]])
    assert drawn[0].get_xlim() == drawn[1].get_ylim() == (0.5, 1.02)
    drawn[0].figure.savefig(tmp_path / "reliability.png")
    assert analysis.plot_reliability(sure, drawn[0].figure.add_subplot()).get_title() == "ECE 20.0%"
    with pytest.raises(ValueError, match=r"one `ax` for each result. Received: 1 for 2 results"):
        analysis.plot_reliability({"a": sure, "b": calm}, drawn[0])


def test_what_has_no_second_derivative_is_left_out(data, tmp_path):
    model = keras.Sequential([keras.Input((5,)), layers.Dense(6, name="hidden"), Once(), layers.Dense(3)], name="once")
    model.compile(loss=LOSS)
    found = analysis.report(model, *data, **SMALL)
    figures = found.to_dict()["models"]["once"]
    for name in ("curvature", "trace", "density"):
        assert "whose derivatives the backend knows" in figures[name]["not measured"]
    assert figures["sharpness"]["sharpness"] > 0
    found.save(tmp_path / "page.html")
    assert "whose derivatives the backend knows" in (tmp_path / "page.html").read_text()
