"""KerasHub: a text classifier trains with SAM, whole or by LoRA, and its presets are as without."""

import functools

import keras
import keras_hub
import numpy as np
import pytest

import keras_sam

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, 50, size=(32, 8)).astype("int32")
X = {
    "token_ids": TOKENS,
    "segment_ids": np.zeros_like(TOKENS),
    "padding_mask": (np.arange(8) < RNG.integers(4, 9, size=(32, 1))).astype("int32"),
}
Y = (TOKENS[:, 0] > 25).astype("int32")


def by_fit(model):
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)


def by_batch(model):
    for start in (0, 16):
        model.train_on_batch({name: each[start : start + 16] for name, each in X.items()}, Y[start : start + 16])


def make_classifier(lora=False):
    """A BERT from a configuration, with its dropout."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=8
    )
    if lora:
        backbone.enable_lora(4)
    return keras_hub.models.BertTextClassifier(backbone, num_classes=2, preprocessor=None)


@functools.cache
def trained(train, rho=None, lora=False):
    """The classifier, trained by SGD alone, or by SAM through its twin."""
    classifier = make_classifier(lora)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model = classifier if rho is None else keras_sam.as_sam_model(classifier)
    model.compile(optimizer if rho is None else keras_sam.SAMOptimizer(optimizer, rho=rho))
    train(model)
    return classifier


def difference(one, other):
    """The largest, of all weights."""
    return max(np.abs(a - b).max() for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize(("train", "lora"), [(by_fit, False), (by_batch, False), (by_fit, True)])
def test_trains_as_without_at_rho_0_and_differs_from_it_at_others(train, lora):
    plain = trained(train, lora=lora)
    assert difference(plain, trained(train, rho=1e-300, lora=lora)) < 1e-5
    assert difference(plain, trained(train, rho=0.1, lora=lora)) > 1e-4


def test_lora_trains_its_matrices_and_leaves_the_kernels():
    before, after = make_classifier(lora=True).variables, trained(by_fit, rho=0.1, lora=True)
    pairs = zip(before, after.variables, strict=True)
    moved = {new.path for old, new in pairs if not np.array_equal(*map(keras.ops.convert_to_numpy, (old, new)))}
    trainable = {variable.path for variable in after.trainable_variables}
    assert any("lora" in path for path in moved)
    assert not any("embedding" in path for path in trainable)
    assert moved - trainable == {path for path in moved if "seed_generator" in path}


def test_compile_and_logs_are_the_classifiers_own():
    """Its `compile` chooses loss and metrics."""
    model = keras_sam.as_sam_model(make_classifier())
    model.compile(keras_sam.SAMOptimizer("adam", rho=0.1))
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert {"loss", "sparse_categorical_accuracy", "sharpness", "val_loss"} <= set(history)
    assert isinstance(model, keras_hub.models.TextClassifier)


@pytest.mark.parametrize("again", [False, True], ids=["the classifier", "as_plain_model"])
def test_preset_of_the_classifier_has_what_its_twin_has_learned(again, tmp_path):
    classifier = trained(by_fit, rho=0.1, lora=False)
    saved = keras_sam.as_plain_model(keras_sam.as_sam_model(classifier)) if again else classifier
    saved.save_to_preset(str(tmp_path / "preset"))
    loaded = keras_hub.models.TextClassifier.from_preset(str(tmp_path / "preset"))
    assert type(loaded) is keras_hub.models.BertTextClassifier
    learned = classifier.predict(X, verbose=0)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), learned, atol=1e-6)
    assert np.abs(learned - make_classifier().predict(X, verbose=0)).max() > 1e-3


def test_preset_of_the_twin_is_warned_of(tmp_path):
    model = keras_sam.as_sam_model(make_classifier())
    model.compile(keras_sam.SAMOptimizer("sgd"))
    with pytest.warns(UserWarning, match="as_plain_model"):
        model.save_to_preset(str(tmp_path / "preset"))
