# Four tables of scikit-learn, fully connected layers and a small transformer, right labels and 20% of the train
# labels redrawn. Every optimizer for as long as Adam's 200 epochs take: no more gradient passes and no more seconds.
# An hour and a half on a CPU core, with JAX.
set -e
cd "$(dirname "$0")/.."
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base --validation \
    20 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 100 --optimizers sam --rho 0.5 \
    --warmup 0.25 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 150 --optimizers sam_quarter --rho \
    0.7 --warmup 0.25 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 160 --optimizers msam --rho 0.3 \
    "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base --validation 20 \
    "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 100 --optimizers sam --rho 0.5 --warmup \
    0.25 "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 150 --optimizers sam_quarter --rho 0.7 \
    --warmup 0.25 "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 160 --optimizers msam --rho 0.3 "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base --validation 20 \
    "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 100 --optimizers sam --rho 0.5 --warmup \
    0.25 "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 150 --optimizers sam_quarter --rho 0.7 \
    --warmup 0.25 "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 160 --optimizers msam --rho 0.3 "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base --validation 20 \
    "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 100 --optimizers sam --rho 0.5 --warmup \
    0.25 "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 150 --optimizers sam_quarter --rho 0.7 \
    --warmup 0.25 "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model mlp64 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 160 --optimizers msam --rho 0.3 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base --validation \
    20 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 100 --optimizers sam --rho 0.5 \
    --warmup 0.25 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 130 --optimizers sam_quarter --rho \
    0.7 --warmup 0.25 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 130 --optimizers msam --rho 0.3 \
    "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base --validation 20 \
    "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 100 --optimizers sam --rho 0.5 --warmup \
    0.25 "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 130 --optimizers sam_quarter --rho 0.7 \
    --warmup 0.25 "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 130 --optimizers msam --rho 0.3 "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base --validation 20 \
    "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 100 --optimizers sam --rho 0.5 --warmup \
    0.25 "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 130 --optimizers sam_quarter --rho 0.7 \
    --warmup 0.25 "$@"
python generalization.py --dataset iris --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 130 --optimizers msam --rho 0.3 "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 200 --optimizers base --validation \
    20 "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 100 --optimizers sam --rho 0.5 \
    --warmup 0.25 "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 130 --optimizers sam_quarter --rho \
    0.7 --warmup 0.25 "$@"
python generalization.py --dataset diabetes --label-noise 0 0.2 --model columns --batch-size 32 --learning-rate \
    0.001 --base adam --seeds 5 --quantize int8 int4 --out tables.jsonl --epochs 130 --optimizers msam --rho 0.3 \
    "$@"
python evidence.py tables.jsonl
