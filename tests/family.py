"""Every algorithm and every option of SAM, by name: what the contract in `test_family.py` holds for."""

import keras

import keras_sam

REGISTRY = {
    "sam": (keras_sam.SAMOptimizer, {}),
    "adaptive": (keras_sam.SAMOptimizer, {"adaptive": True}),
    "perturb": (keras_sam.SAMOptimizer, {"perturb": ["kernel"]}),
    "interval": (keras_sam.SAMOptimizer, {"interval": 3}),
    "ascent_fraction": (keras_sam.SAMOptimizer, {"ascent_fraction": 0.25}),
    "num_batch_splits": (keras_sam.SAMOptimizer, {"num_batch_splits": 2}),
    "asam": (keras_sam.ASAMOptimizer, {"eta": 0.1}),
    "gsam": (keras_sam.GSAMOptimizer, {"alpha": 0.3}),
    "spectral_sam": (
        keras_sam.SpectralSAMOptimizer,
        {"interval": 3, "rest_ratio": 0.5, "exclude_layers": "gamma|dense_1|bias"},
    ),
    "looksam": (keras_sam.LookSAMOptimizer, {"interval": 5, "alpha": 0.6}),
    "wsam": (keras_sam.WSAMOptimizer, {"gamma": 0.7}),
    "wsam_coupled": (keras_sam.WSAMOptimizer, {"gamma": 0.7, "decouple": False}),
    "friendly_sam": (keras_sam.FriendlySAMOptimizer, {"sigma": 0.8, "lmbda": 0.7}),
    "vasso": (keras_sam.VaSSOOptimizer, {"theta": 0.3}),
    "bayesian_sam": (keras_sam.BayesianSAMOptimizer, {"num_data": 100, "prior_precision": 0.0, "seed": 3}),
    "msam": (keras_sam.MSAMOptimizer, {"momentum": 0.8}),
}


def make(name, rho=0.2, base=None):
    algorithm, options = REGISTRY[name]
    return algorithm(base or keras.optimizers.SGD(0.1, momentum=0.9), rho=rho, **options)
