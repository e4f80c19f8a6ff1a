# CIFAR-10, 10,000 images with augmentation for 4 epochs: too short for the base optimizer to fit them. About half an hour
# on a CPU. `sh cifar10_short.sh --data FILE.npz` takes the images from a file.
set -e
cd "$(dirname "$0")/.."
python generalization.py --dataset cifar10 --train-size 10000 --model resnet8 --epochs 4 --learning-rate 0.1 --augment \
    --label-noise 0 --out cifar10_short.jsonl --optimizers base --seeds 2 "$@"
python generalization.py --dataset cifar10 --train-size 10000 --model resnet8 --epochs 4 --learning-rate 0.1 --augment \
    --label-noise 0 --out cifar10_short.jsonl --optimizers sam --rho 0.1 --seeds 2 "$@"
python generalization.py --dataset cifar10 --train-size 10000 --model resnet8 --epochs 4 --learning-rate 0.1 --augment \
    --label-noise 0 --out cifar10_short.jsonl --optimizers msam --rho 1 --seeds 2 "$@"
python summary.py cifar10_short.jsonl
