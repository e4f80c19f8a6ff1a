"""Loads a folder's models where there is no keras_sam, and compares their predictions with those beside them."""

import sys
from pathlib import Path

sys.modules["keras_sam"] = None  # whoever imports it fails

import keras  # noqa: E402
import numpy as np  # noqa: E402
import plain_models  # noqa: E402, F401

for path in sorted(Path(sys.argv[1]).glob("*.keras")):
    with np.load(path.with_suffix(".npz")) as arrays:
        x, expected = arrays["x"], arrays["predicted"]
    model = keras.saving.load_model(path)
    found = model.predict({"x": x} if path.stem in ("functional twin", "functional declared") else x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    print(path.stem)
