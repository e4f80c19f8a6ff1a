# CIFAR-10 photographs, 3,000 of them, a small ResNet: constant radii and rising ones, and a climb in the last part of the
# training only. 40% of the train labels redrawn, and none. Two hours on a CPU core. `sh radius_cifar10.sh --data FILE.npz`
# takes the images from a file.
set -e
cd "$(dirname "$0")/.."
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0.4 --out radius_cifar10.jsonl --dataset cifar10 --optimizers base,sam --rho 0.1 0.2 0.3 0.4 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0.4 --out radius_cifar10.jsonl --dataset cifar10 --optimizers sam --rho 0.2 0.4 --warmup 0.25 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0.4 --out radius_cifar10.jsonl --dataset cifar10 --optimizers sam --rho 0.2 --begin 0.5 0.7 0.8 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0.4 --out radius_cifar10.jsonl --dataset cifar10 --optimizers msam --rho 1 1.5 2 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0 --out radius_cifar10.jsonl --dataset cifar10 --optimizers base,sam --rho 0.05 0.1 0.2 0.3 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0 --out radius_cifar10.jsonl --dataset cifar10 --optimizers sam --rho 0.2 0.4 --warmup 0.25 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0 --out radius_cifar10.jsonl --dataset cifar10 --optimizers sam --rho 0.2 --begin 0.5 0.7 0.8 "$@"
python generalization.py --train-size 3000 --model resnet8_half --epochs 12 --learning-rate 0.1 --seeds 3 \
    --label-noise 0 --out radius_cifar10.jsonl --dataset cifar10 --optimizers msam --rho 1 1.5 2 "$@"
python radius.py radius_cifar10.jsonl
