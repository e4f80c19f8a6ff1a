# ETTh1, 512 hours to forecast 96: SAMformer (arXiv 2402.10198) with constant radii and rising ones, and a climb in the last
# part of the training only. An hour on a CPU core; ETTh1.csv must stand in `benchmarks`.
set -e
cd "$(dirname "$0")/.."
python generalization.py --data ETTh1.csv --label-noise 0 --model samformer --epochs 10 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 3 --out radius_etth1.jsonl --optimizers base,sam --rho 0.2 0.5 0.7 1 1.4 "$@"
python generalization.py --data ETTh1.csv --label-noise 0 --model samformer --epochs 10 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 3 --out radius_etth1.jsonl --optimizers sam --rho 0.7 1.4 --warmup 0.25 "$@"
python generalization.py --data ETTh1.csv --label-noise 0 --model samformer --epochs 10 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 3 --out radius_etth1.jsonl --optimizers sam --rho 0.7 --begin 0.5 0.7 0.8 "$@"
python generalization.py --data ETTh1.csv --label-noise 0 --model samformer --epochs 10 --batch-size 32 --learning-rate 0.001 \
    --base adam --seeds 3 --out radius_etth1.jsonl --optimizers msam --rho 1.5 3 "$@"
python radius.py radius_etth1.jsonl
