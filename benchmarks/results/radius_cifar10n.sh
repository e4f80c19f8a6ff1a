# CIFAR-10 photographs, 3,000 of them, a small ResNet: constant radii and rising ones, and a climb in the last part of the
# training only. Labels that people gave, 40% of them wrong: "worse" of CIFAR-10N (arXiv 2110.12088), which the file
# has as y_train. An hour on a CPU core.
set -e
cd "$(dirname "$0")/.."
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0 --out radius_cifar10n.jsonl --data cifar10n_worse.npz --optimizers base,sam --rho 0.1 0.2 0.3 0.4 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0 --out radius_cifar10n.jsonl --data cifar10n_worse.npz --optimizers sam --rho 0.2 0.4 --warmup 0.25 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0 --out radius_cifar10n.jsonl --data cifar10n_worse.npz --optimizers sam --rho 0.2 --begin 0.5 0.7 0.8 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0 --out radius_cifar10n.jsonl --data cifar10n_worse.npz --optimizers msam --rho 1 1.5 2 "$@"
python radius.py radius_cifar10n.jsonl
