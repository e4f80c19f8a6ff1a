# CIFAR-10, 3,000 images without augmentation, so that the base optimizer fits them: 40% of the train labels redrawn, and
# none. Hours on a CPU. `sh cifar10.sh --data FILE.npz` takes the images from a file.
set -e
cd "$(dirname "$0")/.."
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers base --seeds 2 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers sam --rho 0.3 --seeds 2 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers sam --rho 0.1 --seeds 1 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers sam_quarter --rho 0.3 --seeds 2 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers msam --rho 1 2 3 --seeds 1 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers msam --rho 1.5 --seeds 2 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 20 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers base --label-noise 0 --seeds 2 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 20 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers sam --rho 0.1 --label-noise 0 --seeds 2 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 20 --learning-rate 0.1 \
    --out cifar10.jsonl --optimizers msam --rho 1 --label-noise 0 --seeds 2 "$@"
python summary.py cifar10.jsonl
