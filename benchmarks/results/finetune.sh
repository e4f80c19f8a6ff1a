# EfficientNet-lite0 with its ImageNet weights, fine-tuned on 500 and 2,000 CIFAR-10 photographs: all layers, and the last
# one alone. Every optimizer for as long as its base takes. Three hours on a CPU core, with TensorFlow;
# `cifar10.npz` must stand in `benchmarks`, and PyTorch reads the weights.
set -e
cd "$(dirname "$0")/.."
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 500 --base adamw --learning-rate 0.001 --epochs 8 --optimizers base \
    "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 500 --base adamw --learning-rate 0.001 --epochs 8 --optimizers base \
    --validation 100 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 500 --base adamw --learning-rate 0.001 --epochs 4 --optimizers sam \
    --rho 0.1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 500 --base adamw --learning-rate 0.001 --epochs 8 --optimizers msam \
    --rho 0.5 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 500 --base sgd --learning-rate 0.03 --epochs 8 --optimizers base \
    "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 500 --base sgd --learning-rate 0.03 --epochs 8 --optimizers base \
    --validation 100 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 500 --base sgd --learning-rate 0.03 --epochs 4 --optimizers sam \
    --rho 0.1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 500 --base sgd --learning-rate 0.03 --epochs 8 --optimizers msam \
    --rho 0.5 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 2000 --base adamw --learning-rate 0.001 --epochs 4 --optimizers base \
    "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 2000 --base adamw --learning-rate 0.001 --epochs 4 --optimizers base \
    --validation 400 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 2000 --base adamw --learning-rate 0.001 --epochs 2 --optimizers sam \
    --rho 0.1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 2000 --base adamw --learning-rate 0.001 --epochs 4 --optimizers msam \
    --rho 0.5 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 2000 --base sgd --learning-rate 0.03 --epochs 4 --optimizers base \
    "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 2000 --base sgd --learning-rate 0.03 --epochs 4 --optimizers base \
    --validation 400 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 2000 --base sgd --learning-rate 0.03 --epochs 2 --optimizers sam \
    --rho 0.1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --batch-size 32 \
    --out finetune.jsonl --seeds 5 --train-size 2000 --base sgd --learning-rate 0.03 --epochs 4 --optimizers msam \
    --rho 0.5 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 500 --base adamw \
    --learning-rate 0.003 --epochs 40 --optimizers base "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 500 --base adamw \
    --learning-rate 0.003 --epochs 40 --optimizers base --validation 100 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 500 --base adamw \
    --learning-rate 0.003 --epochs 20 --optimizers sam --rho 1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 500 --base adamw \
    --learning-rate 0.003 --epochs 40 --optimizers msam --rho 3 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 500 --base sgd --learning-rate \
    0.01 --epochs 40 --optimizers base "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 500 --base sgd --learning-rate \
    0.01 --epochs 40 --optimizers base --validation 100 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 500 --base sgd --learning-rate \
    0.01 --epochs 20 --optimizers sam --rho 1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 500 --base sgd --learning-rate \
    0.01 --epochs 40 --optimizers msam --rho 3 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 2000 --base adamw \
    --learning-rate 0.003 --epochs 40 --optimizers base "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 2000 --base adamw \
    --learning-rate 0.003 --epochs 40 --optimizers base --validation 400 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 2000 --base adamw \
    --learning-rate 0.003 --epochs 20 --optimizers sam --rho 1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 2000 --base adamw \
    --learning-rate 0.003 --epochs 40 --optimizers msam --rho 3 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 2000 --base sgd --learning-rate \
    0.01 --epochs 40 --optimizers base "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 2000 --base sgd --learning-rate \
    0.01 --epochs 40 --optimizers base --validation 400 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 2000 --base sgd --learning-rate \
    0.01 --epochs 20 --optimizers sam --rho 1 --warmup 0.25 "$@"
python generalization.py --data cifar10.npz --label-noise 0 --test-size 1000 --model efficientnet --frozen \
    --batch-size 32 --out finetune.jsonl --seeds 5 --quantize int8 int4 --train-size 2000 --base sgd --learning-rate \
    0.01 --epochs 40 --optimizers msam --rho 3 "$@"
python evidence.py finetune.jsonl
