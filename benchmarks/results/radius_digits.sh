# Handwritten digits: constant radii and rising ones over three widths, two batch sizes and three shares of redrawn labels,
# and a climb in the last part of the training only. An hour on a CPU core.
set -e
cd "$(dirname "$0")/.."
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp --batch-size 64 --out radius_digits.jsonl \
    --optimizers base,sam --rho 0.05 0.1 0.2 0.3 0.5 0.7 1 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp --batch-size 64 --out radius_digits.jsonl \
    --optimizers sam --rho 0.1 0.2 0.3 0.5 0.7 1 1.4 --warmup 0.5 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp --batch-size 64 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 0.5 1 --warmup 0.25 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp --batch-size 64 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 --begin 0.5 0.7 0.8 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp --batch-size 256 --out radius_digits.jsonl \
    --optimizers base,sam --rho 0.05 0.1 0.2 0.3 0.5 0.7 1 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp --batch-size 256 --out radius_digits.jsonl \
    --optimizers sam --rho 0.1 0.2 0.3 0.5 0.7 1 1.4 --warmup 0.5 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp --batch-size 256 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 0.5 1 --warmup 0.25 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp --batch-size 256 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 --begin 0.5 0.7 0.8 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp64 --batch-size 64 --out radius_digits.jsonl \
    --optimizers base,sam --rho 0.05 0.1 0.2 0.3 0.5 0.7 1 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp64 --batch-size 64 --out radius_digits.jsonl \
    --optimizers sam --rho 0.1 0.2 0.3 0.5 0.7 1 1.4 --warmup 0.5 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp64 --batch-size 64 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 0.5 1 --warmup 0.25 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp64 --batch-size 64 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 --begin 0.5 0.7 0.8 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp64 --batch-size 256 --out radius_digits.jsonl \
    --optimizers base,sam --rho 0.05 0.1 0.2 0.3 0.5 0.7 1 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp64 --batch-size 256 --out radius_digits.jsonl \
    --optimizers sam --rho 0.1 0.2 0.3 0.5 0.7 1 1.4 --warmup 0.5 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp64 --batch-size 256 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 0.5 1 --warmup 0.25 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp64 --batch-size 256 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 --begin 0.5 0.7 0.8 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp512 --batch-size 64 --out radius_digits.jsonl \
    --optimizers base,sam --rho 0.05 0.1 0.2 0.3 0.5 0.7 1 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp512 --batch-size 64 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 0.5 1 --warmup 0.25 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp512 --batch-size 64 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 --begin 0.5 0.7 0.8 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp512 --batch-size 256 --out radius_digits.jsonl \
    --optimizers base,sam --rho 0.05 0.1 0.2 0.3 0.5 0.7 1 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp512 --batch-size 256 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 0.5 1 --warmup 0.25 "$@"
python generalization.py --label-noise 0 0.4 0.8 --seeds 3 --model mlp512 --batch-size 256 --out radius_digits.jsonl \
    --optimizers sam --rho 0.3 --begin 0.5 0.7 0.8 "$@"
python radius.py radius_digits.jsonl
