"""Uses keras_sam on a backend where nothing can train: loads a folder's models, and sees training refused."""

import functools
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_sam.analysis
import keras_sam.callbacks

refused = functools.partial(
    pytest.raises,
    RuntimeError,
    match=rf"keras_sam runs on the Keras backends jax, tensorflow, torch.*Received: '{keras.backend.backend()}'",
)

for path in sorted(Path(sys.argv[1]).glob("*.keras")):
    with np.load(path.with_suffix(".npz")) as arrays:
        x, y, expected = arrays["x"], arrays["y"], arrays["predicted"]
    model = keras.saving.load_model(path)
    assert isinstance(model, keras_sam.SAMModel)
    assert isinstance(model.optimizer, keras_sam.SAMOptimizer)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=0, atol=1e-5)
    assert np.isfinite(model.evaluate(x, y, verbose=0))
    with refused():
        model.fit(x, y)
    with refused():
        model.train_on_batch(x, y)
    variables = model.trainable_variables
    gradients = [np.ones(v.shape, "float32") for v in variables] if model.optimizer.ascent_needs_gradient else None
    with refused():
        if model.optimizer.draws_noise:
            model.optimizer.noise_step(variables)
        model.optimizer.first_step(gradients, variables)
    with refused():
        keras_sam.analysis.sharpness(model, x, y)
    with refused():
        keras_sam.analysis.hessian_eigenvalues(model, x, y)
    print(path.stem)
