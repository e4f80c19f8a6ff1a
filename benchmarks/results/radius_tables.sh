# Three tables of scikit-learn, right labels and 20% of the train labels redrawn: constant radii and rising ones, and a climb
# in the last part of the training only. Half an hour on a CPU core.
set -e
cd "$(dirname "$0")/.."
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers base,sam --rho 0.02 0.05 0.1 0.2 0.5 1 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers sam --rho 0.1 0.2 0.5 1 --warmup 0.25 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers sam --rho 0.2 --begin 0.5 0.7 0.8 "$@"
python generalization.py --dataset breast_cancer --label-noise 0 0.2 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers msam --rho 0.3 1 1.5 3 "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers base,sam --rho 0.02 0.05 0.1 0.2 0.5 1 "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers sam --rho 0.1 0.2 0.5 1 --warmup 0.25 "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers sam --rho 0.2 --begin 0.5 0.7 0.8 "$@"
python generalization.py --dataset wine --label-noise 0 0.2 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers msam --rho 0.3 1 1.5 3 "$@"
python generalization.py --dataset diabetes --label-noise 0 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers base,sam --rho 0.02 0.05 0.1 0.2 0.5 1 "$@"
python generalization.py --dataset diabetes --label-noise 0 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers sam --rho 0.1 0.2 0.5 1 --warmup 0.25 "$@"
python generalization.py --dataset diabetes --label-noise 0 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers sam --rho 0.2 --begin 0.5 0.7 0.8 "$@"
python generalization.py --dataset diabetes --label-noise 0 --model mlp64 --epochs 60 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 5 --out radius_tables.jsonl --optimizers msam --rho 0.3 1 1.5 3 "$@"
python radius.py radius_tables.jsonl
