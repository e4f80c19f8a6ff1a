# SAMformer on ETTh1 (arXiv 2402.10198): forecasts of 96 to 720 hours. Every optimizer for as long as Adam's 16 epochs
# take: no more gradient passes and no more seconds; the weights are those of the epoch with the lowest validation
# loss. Two hours on a CPU core, with JAX; ETTh1.csv must stand in `benchmarks`.
set -e
cd "$(dirname "$0")/.."
python generalization.py --data ETTh1.csv --horizon 96 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data ETTh1.csv --horizon 96 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 8 --optimizers sam --rho 0.7 --warmup \
    0.25 "$@"
python generalization.py --data ETTh1.csv --horizon 96 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 12 --optimizers sam_quarter --rho 0.98 \
    --warmup 0.25 "$@"
python generalization.py --data ETTh1.csv --horizon 96 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 12 --optimizers sam --rho 0.7 --begin 0.7 \
    "$@"
python generalization.py --data ETTh1.csv --horizon 96 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 13 --optimizers msam --rho 1.5 "$@"
python generalization.py --data ETTh1.csv --horizon 192 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data ETTh1.csv --horizon 192 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 8 --optimizers sam --rho 0.7 --warmup \
    0.25 "$@"
python generalization.py --data ETTh1.csv --horizon 192 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 12 --optimizers sam_quarter --rho 0.98 \
    --warmup 0.25 "$@"
python generalization.py --data ETTh1.csv --horizon 192 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 12 --optimizers sam --rho 0.7 --begin 0.7 \
    "$@"
python generalization.py --data ETTh1.csv --horizon 192 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 13 --optimizers msam --rho 1.5 "$@"
python generalization.py --data ETTh1.csv --horizon 336 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data ETTh1.csv --horizon 336 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 8 --optimizers sam --rho 0.7 --warmup \
    0.25 "$@"
python generalization.py --data ETTh1.csv --horizon 336 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 12 --optimizers sam_quarter --rho 0.98 \
    --warmup 0.25 "$@"
python generalization.py --data ETTh1.csv --horizon 336 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 12 --optimizers sam --rho 0.7 --begin 0.7 \
    "$@"
python generalization.py --data ETTh1.csv --horizon 336 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 13 --optimizers msam --rho 1.5 "$@"
python generalization.py --data ETTh1.csv --horizon 720 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 16 --optimizers base "$@"
python generalization.py --data ETTh1.csv --horizon 720 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 8 --optimizers sam --rho 0.7 --warmup \
    0.25 "$@"
python generalization.py --data ETTh1.csv --horizon 720 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 12 --optimizers sam_quarter --rho 0.98 \
    --warmup 0.25 "$@"
python generalization.py --data ETTh1.csv --horizon 720 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 12 --optimizers sam --rho 0.7 --begin 0.7 \
    "$@"
python generalization.py --data ETTh1.csv --horizon 720 --label-noise 0 --model samformer --batch-size 32 \
    --learning-rate 0.001 --base adam --seeds 5 --out etth1.jsonl --epochs 13 --optimizers msam --rho 1.5 "$@"
python evidence.py etth1.jsonl
