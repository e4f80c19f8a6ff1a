"""Curvature as a user would have it without keras_sam, on the same networks; each package is optional.

Each function takes a Keras model and its batches, and returns a `Peer`.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np


class Peer(NamedTuple):
    """A product of the Hessian of all data, and a search for its largest eigenvalue.

    A search of effort 1, 2, ... goes on to a tolerance of 0.1, 0.01, ..., or takes 4, 8, ... steps where a package asks
    for their number. It returns the eigenvalue, and how many products it took.
    """

    name: str
    product: Callable[[], Any]
    eigenvalue: Callable[[int], tuple[float, int]]


def _counted(product: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls.append(1)
        return product(*args)

    return counted


def eigenthings(model: Any, batches: Any) -> Peer:
    """`hessian-eigenthings` 1.0, with its Lanczos method."""
    import hessian_eigenthings
    import torch

    criterion = torch.nn.CrossEntropyLoss()
    operator = hessian_eigenthings.HessianOperator(
        model, batches, lambda network, batch: criterion(network(batch[0], training=False), batch[1])
    )
    vector, calls = torch.randn(operator.size), []
    operator.matvec = _counted(operator.matvec, calls)

    def eigenvalue(effort: int) -> tuple[float, int]:
        calls.clear()
        found = hessian_eigenthings.lanczos(operator, k=1, max_iter=4 * effort, which="LA", seed=0)
        return float(found.eigenvalues[0]), len(calls)

    return Peer("hessian-eigenthings", lambda: operator.matvec(vector), eigenvalue)


def curvlinops(model: Any, batches: Any) -> Peer:
    """`curvlinops`, with SciPy's `eigsh` as its documentation has it."""
    import curvlinops
    import torch
    from scipy.sparse.linalg import eigsh

    parameters = [v.value for v in model.trainable_variables]
    operator = curvlinops.HessianLinearOperator(model, torch.nn.CrossEntropyLoss(), parameters, batches)
    vector = torch.randn(operator.shape[1])

    def eigenvalue(effort: int) -> tuple[float, int]:
        calls: list[int] = []
        scipy = operator.to_scipy()
        scipy._matvec = _counted(scipy._matvec, calls)
        start = np.random.default_rng(0).normal(size=operator.shape[1])
        return float(eigsh(scipy, 1, which="LA", tol=10.0**-effort, v0=start)[0][0]), len(calls)

    operator @ vector  # or fail here
    return Peer("curvlinops", lambda: operator @ vector, eigenvalue)


def pyhessian(model: Any, batches: Any) -> Peer:
    """`PyHessian`, with its power iteration."""
    import torch
    from pyhessian import hessian

    found = hessian(model, torch.nn.CrossEntropyLoss(), dataloader=batches, cuda=False)
    vector, calls = [torch.randn_like(p) for p in found.params], []
    found.dataloader_hv_product = _counted(found.dataloader_hv_product, calls)

    def eigenvalue(effort: int) -> tuple[float, int]:
        calls.clear()
        values, _ = found.eigenvalues(maxIter=200, tol=10.0**-effort)
        return float(values[0]), len(calls)

    return Peer("PyHessian", lambda: found.dataloader_hv_product(vector), eigenvalue)


def matfree(model: Any, batches: Any) -> Peer:
    """`matfree`, whose Lanczos method runs over a product of one's own, forward over reverse."""
    import jax
    from matfree import decomp, eig

    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    count = sum(len(y) for _, y in batches)

    def loss(weights: Any, x: Any, y: Any) -> Any:
        return criterion(y, model.stateless_call(weights, others, x, training=False)[0])

    @jax.jit
    def one(vector: Any, x: Any, y: Any) -> Any:
        return jax.jvp(lambda w: jax.grad(loss)(w, x, y), (weights,), (vector,))[1]

    def product(vector: Any) -> Any:
        parts = [(len(y) / count, one(vector, x, y)) for x, y in batches]
        return [sum(share * part[i] for share, part in parts) for i in range(len(vector))]

    keys = jax.random.split(jax.random.key(0), len(weights))
    vector = [jax.random.normal(key, w.shape) for key, w in zip(keys, weights, strict=True)]

    def eigenvalue(effort: int) -> tuple[float, int]:
        values, _ = eig.eigh_partial(decomp.tridiag_sym(4 * effort, custom_vjp=False))(product, vector)
        return float(values.max()), 4 * effort

    return Peer("matfree", lambda: jax.block_until_ready(product(vector)), eigenvalue)


PEERS = {"torch": [eigenthings, curvlinops, pyhessian], "jax": [matfree], "tensorflow": []}


def available(model: Any, batches: Any) -> tuple[list[Peer], list[str]]:
    """The backend's peers that are installed and work on the model, and of each other one why not."""
    found, missing = [], []
    for make in PEERS[keras.backend.backend()]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(make(model, batches))
        except ImportError:
            missing.append(f"{make.__name__} is not installed")
        except (RuntimeError, TypeError, AttributeError) as error:
            missing.append(f"{make.__name__} fails on a Keras model: {str(error).splitlines()[0]}")
    return found, missing
