# CIFAR-10, 3,000 images without augmentation, so that the base optimizer fits them: 40% of the train labels redrawn, and
# none. Three hours on one CPU core. `sh cifar10.sh --data FILE.npz` takes the images from a file.
set -e
cd "$(dirname "$0")/.."
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 --seeds 2 \
    --out cifar10.jsonl --optimizers base,sam --rho 0.1 0.2 0.3 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 --seeds 2 \
    --out cifar10.jsonl --optimizers sam_quarter --rho 0.3 0.5 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 --seeds 2 \
    --out cifar10.jsonl --optimizers sam_every_5,looksam_mild --rho 0.5 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 --seeds 2 \
    --out cifar10.jsonl --optimizers looksam --rho 0.2 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 40 --learning-rate 0.1 --seeds 2 \
    --out cifar10.jsonl --optimizers msam --rho 1 1.5 2 3 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 20 --learning-rate 0.1 --seeds 2 \
    --out cifar10.jsonl --label-noise 0 --optimizers base,sam,looksam --rho 0.1 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 20 --learning-rate 0.1 --seeds 2 \
    --out cifar10.jsonl --label-noise 0 --optimizers sam_quarter,sam_every_5,looksam_mild --rho 0.2 "$@"
python generalization.py --dataset cifar10 --train-size 3000 --model resnet8 --epochs 20 --learning-rate 0.1 --seeds 2 \
    --out cifar10.jsonl --label-noise 0 --optimizers msam --rho 1 "$@"
python summary.py cifar10.jsonl
