"""SAM in several processes with PyTorch: a loop under DistributedDataParallel.

    torchrun --nproc-per-node 2 examples/torch_ddp.py [--per-worker]

By default all workers climb along the averaged gradient. With `--per-worker` each climbs along its own,
as the m-sharpness of the paper does, which saves one of the two all-reduces a step.
"""

import contextlib
import os
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch

import keras_sam

per_worker = "--per-worker" in sys.argv
torch.distributed.init_process_group("gloo")
rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(2)])
optimizer = keras_sam.SAMOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), rho=0.05)
parallel = torch.nn.parallel.DistributedDataParallel(model)


def gradients(x, y):
    """The gradients of this worker's part of the batch, averaged over the workers by DDP."""
    parallel.zero_grad()
    torch.nn.functional.cross_entropy(parallel(x), y).backward()
    return [v.value.grad for v in model.trainable_variables]


rng = np.random.default_rng(0)
x = torch.from_numpy(rng.normal(size=(512, 20)).astype("float32"))
y = (x[:, 0] * x[:, 1] > 0).long()

for _ in range(40):
    for batch in torch.from_numpy(rng.permutation(512)).split(64):
        mine = batch[rank::workers]
        with parallel.no_sync() if per_worker else contextlib.nullcontext():
            optimizer.first_step(gradients(x[mine], y[mine]), model.trainable_variables)
        optimizer.second_step(gradients(x[mine], y[mine]), model.trainable_variables)

accuracy = (model(x).argmax(-1) == y).float().mean().item()
if rank == 0:
    print(f"{workers} workers, train accuracy {accuracy:.3f}")
torch.distributed.barrier()  # no worker leaves while another still talks to it
torch.distributed.destroy_process_group()
