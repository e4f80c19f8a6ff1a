# Spectral SAM around Muon, beside Muon alone and SAM around it, each for as long as Muon trains: sentences in which only
# the order of the words tells, with a small transformer, and 5,000 CIFAR-10 photographs. Half an hour on a CPU core, with
# JAX; `cifar10.npz` must stand in `benchmarks`.
set -e
cd "$(dirname "$0")/.."
python generalization.py --dataset sentences --label-noise 0 0.2 --model text --base muon --learning-rate 0.003 \
    --batch-size 50 --seeds 5 --out spectral.jsonl --epochs 90 --optimizers base "$@"
python generalization.py --dataset sentences --label-noise 0 0.2 --model text --base muon --learning-rate 0.003 \
    --batch-size 50 --seeds 5 --out spectral.jsonl --epochs 45 --optimizers sam --rho 0.1 --warmup 0.25 "$@"
python generalization.py --dataset sentences --label-noise 0 0.2 --model text --base muon --learning-rate 0.003 \
    --batch-size 50 --seeds 5 --out spectral.jsonl --epochs 58 --optimizers spectral_sam --rho 0.3 --warmup 0.25 \
    "$@"
python generalization.py --dataset sentences --label-noise 0 0.2 --model text --base muon --learning-rate 0.003 \
    --batch-size 50 --seeds 5 --out spectral.jsonl --epochs 45 --optimizers spectral_sam_always --rho 0.05 --warmup \
    0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 0.4 --train-size 5000 --model resnet8_half --base muon \
    --learning-rate 0.01 --out spectral.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data cifar10.npz --label-noise 0 0.4 --train-size 5000 --model resnet8_half --base muon \
    --learning-rate 0.01 --out spectral.jsonl --epochs 8 --optimizers sam --rho 0.1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 0.4 --train-size 5000 --model resnet8_half --base muon \
    --learning-rate 0.01 --out spectral.jsonl --epochs 12 --optimizers spectral_sam --rho 0.02 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 0.4 --train-size 5000 --model resnet8_half --base muon \
    --learning-rate 0.01 --out spectral.jsonl --epochs 7 --optimizers spectral_sam_always --rho 0.02 --warmup 0.25 \
    "$@"
python evidence.py spectral.jsonl
