"""PyTorch: a custom loop under DistributedDataParallel, in two gloo processes.

Usage: torch_processes.py averaged|per_worker|fit OUT PROCESS PORT...
"""

import contextlib
import sys

import torch

mode, out, process, port = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=process)

import problem  # noqa: E402

if mode == "fit":
    try:
        problem.network(problem.optimizer()).fit(*problem.data(), verbose=0)
    except RuntimeError as error:
        problem.save(out, [], message=str(error))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.exit()

model, optimizer = problem.network(), problem.optimizer()
parallel = torch.nn.parallel.DistributedDataParallel(model)


def gradients(x, y):
    parallel.zero_grad()
    torch.nn.functional.cross_entropy(parallel(x), y).backward()
    return [v.value.grad for v in model.trainable_variables]


for x, y in problem.batches():
    half = slice(process * 8, process * 8 + 8)
    x, y = torch.from_numpy(x[half]), torch.from_numpy(y[half]).long()
    with parallel.no_sync() if mode == "per_worker" else contextlib.nullcontext():
        if optimizer.draws_noise:
            optimizer.noise_step(model.trainable_variables)
        ascent = gradients(x, y) if optimizer.ascent_needs_gradient else None
        optimizer.first_step(ascent, model.trainable_variables)
    optimizer.second_step(gradients(x, y), model.trainable_variables)

problem.save(out, [v.value.detach() for v in model.trainable_variables])
torch.distributed.barrier()  # no worker leaves while another still talks to it
torch.distributed.destroy_process_group()
