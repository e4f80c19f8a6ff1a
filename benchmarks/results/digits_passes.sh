# Handwritten digits at an equal cost of 120 gradient passes over the data: SGD trains for twice as long as SAM. A few
# minutes on two CPU cores.
set -e
cd "$(dirname "$0")/.."
python generalization.py --equal passes --epochs 120 --label-noise 0 0.4 --seeds 5 --out digits_passes.jsonl \
    --optimizers base,sam,sam_quarter,looksam,msam
python generalization.py --equal passes --epochs 120 --label-noise 0 0.4 --seeds 5 --out digits_passes.jsonl \
    --optimizers msam --rho 2 2.5
python summary.py digits_passes.jsonl
