"""Uses an installed keras_sam as its user does; run from outside the source tree, in an environment of its own."""

import importlib
import importlib.metadata
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_sam

# Installed, and not read from a source tree.
package = Path(keras_sam.__file__).parent
assert package.is_relative_to(sys.prefix), package
assert (package / "py.typed").is_file()
files = importlib.metadata.files("keras_sam")
assert {file.parts[0].split("-")[0] for file in files} == {"keras_sam"}, files
assert any(file.name == "LICENSE" for file in files), files

assert keras_sam.__version__ == importlib.metadata.version("keras_sam")

# Without the optional packages.
assert not {"matplotlib", "scikit-learn", "pytest"} & {d.name for d in importlib.metadata.distributions()}
for name in ("analysis", "callbacks", "demo", "models", "optimizers"):
    importlib.import_module(f"keras_sam.{name}")

# Two lines, a fit, a file.
x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
plain = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)])
model = keras_sam.as_sam_model(plain)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05), loss=loss)
losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6)
assert isinstance(loaded.optimizer, keras_sam.SAMOptimizer)
assert loaded.optimizer.rho == 0.05
loaded.fit(x, y, verbose=0)

print(f"keras_sam {keras_sam.__version__} on {keras.backend.backend()} and Keras {keras.__version__}: fits and loads")
