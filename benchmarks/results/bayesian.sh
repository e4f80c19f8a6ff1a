# Bayesian SAM beside SAM and SGD: digits, and 5,000 CIFAR-10 photographs, with right labels and 40% redrawn. Half an hour
# on a CPU core, with JAX; `cifar10.npz` must stand in `benchmarks`.
set -e
cd "$(dirname "$0")/.."
python generalization.py --dataset digits --label-noise 0 0.4 --seeds 5 --out bayesian.jsonl --optimizers base "$@"
python generalization.py --dataset digits --label-noise 0 0.4 --seeds 5 --out bayesian.jsonl --optimizers sam --rho \
    0.5 "$@"
python generalization.py --dataset digits --label-noise 0 0.4 --seeds 5 --out bayesian.jsonl --optimizers \
    bayesian_sam --rho 0.2 --learning-rate 0.5 "$@"
python generalization.py --data cifar10.npz --label-noise 0 0.4 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out bayesian.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data cifar10.npz --label-noise 0 0.4 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out bayesian.jsonl --epochs 8 --optimizers sam --rho 0.2 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 0.4 --train-size 5000 --model resnet8_half \
    --learning-rate 1.5 --out bayesian.jsonl --epochs 8 --optimizers bayesian_sam --rho 0.05 "$@"
python evidence.py bayesian.jsonl
