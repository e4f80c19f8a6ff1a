# 5,000 CIFAR-10 photographs with the labels that people gave them (CIFAR-10N, arXiv 2110.12088; 9, 18 and 41% wrong),
# and with as many redrawn by a computer. Every optimizer for as long as SGD's 16 epochs take: no more gradient passes
# and no more seconds. An hour and a half on a CPU core, with JAX; the .npz files must stand in `benchmarks`.
set -e
cd "$(dirname "$0")/.."
python generalization.py --data cifar10n_aggregate.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data cifar10n_aggregate.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 16 --optimizers base --validation 500 "$@"
python generalization.py --data cifar10n_aggregate.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 8 --optimizers sam,friendly_sam --rho 0.2 --warmup 0.25 "$@"
python generalization.py --data cifar10n_aggregate.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 8 --optimizers gsam --rho 0.12 --warmup 0.25 "$@"
python generalization.py --data cifar10n_aggregate.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 12 --optimizers sam_quarter --rho 0.28 --warmup 0.25 "$@"
python generalization.py --data cifar10n_aggregate.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 15 --optimizers msam --rho 1.5 "$@"
python generalization.py --data cifar10n_random1.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data cifar10n_random1.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 16 --optimizers base --validation 500 "$@"
python generalization.py --data cifar10n_random1.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 8 --optimizers sam,friendly_sam --rho 0.2 --warmup 0.25 "$@"
python generalization.py --data cifar10n_random1.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 8 --optimizers gsam --rho 0.12 --warmup 0.25 "$@"
python generalization.py --data cifar10n_random1.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 12 --optimizers sam_quarter --rho 0.28 --warmup 0.25 "$@"
python generalization.py --data cifar10n_random1.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 15 --optimizers msam --rho 1.5 "$@"
python generalization.py --data cifar10n_worse.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data cifar10n_worse.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 16 --optimizers base --validation 500 "$@"
python generalization.py --data cifar10n_worse.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 8 --optimizers sam,friendly_sam --rho 0.2 --warmup 0.25 "$@"
python generalization.py --data cifar10n_worse.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 8 --optimizers gsam --rho 0.12 --warmup 0.25 "$@"
python generalization.py --data cifar10n_worse.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 12 --optimizers sam_quarter --rho 0.28 --warmup 0.25 "$@"
python generalization.py --data cifar10n_worse.npz --label-noise 0 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 15 --optimizers msam --rho 1.5 "$@"
python generalization.py --data cifar10.npz --label-noise 0.1 0.19 0.45 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data cifar10.npz --label-noise 0.1 0.19 0.45 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 8 --optimizers sam --rho 0.2 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0.1 0.19 0.45 --train-size 5000 --model resnet8_half \
    --learning-rate 0.1 --out cifar10n.jsonl --epochs 15 --optimizers msam --rho 1.5 "$@"
python evidence.py cifar10n.jsonl
