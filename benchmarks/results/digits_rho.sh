# Handwritten digits, 40% of the train labels redrawn: a sweep of rho. A few minutes on two CPU cores.
set -e
cd "$(dirname "$0")/.."
python generalization.py --seeds 3 --optimizers base,sam --rho 0.1 0.2 0.3 0.5 0.7 --out digits_rho.jsonl
python generalization.py --seeds 3 --optimizers sam_quarter --rho 0.3 0.5 0.7 1 --out digits_rho.jsonl
python generalization.py --seeds 3 --optimizers msam --rho 1 1.5 2 2.5 3 --out digits_rho.jsonl
python summary.py digits_rho.jsonl
