"""A user's script for `mypy --strict`: the types of an installed keras_sam reach it."""

from typing import assert_type

import keras_sam
from keras_sam.analysis import Spectrum, hessian_eigenvalues

optimizer = keras_sam.LookSAMOptimizer("adam", rho=0.1, interval=4)
assert_type(optimizer, keras_sam.LookSAMOptimizer)
assert_type(optimizer.gradient_passes, float)
assert_type(keras_sam.__version__, str)

# A mistake is seen: without the types, mypy would say that this comment is not needed.
keras_sam.SAMOptimizer("adam", adaptive="yes")  # type: ignore[arg-type]

spectrum = hessian_eigenvalues(model=None, x=[], k=1)
assert_type(spectrum, Spectrum)
