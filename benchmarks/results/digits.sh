# Handwritten digits, 0 to 80% of the train labels redrawn: every algorithm. Under an hour on two CPU cores.
set -e
cd "$(dirname "$0")/.."
python generalization.py --label-noise 0 0.2 0.4 0.6 0.8 --seeds 5 --out digits.jsonl \
    --optimizers base,sam,asam,gsam,looksam,wsam,friendly_sam,vasso,msam,sam_quarter,sam_every_5
# More noise wants a smaller radius.
python generalization.py --label-noise 0.6 0.8 --seeds 5 --rho 0.1 0.2 --out digits.jsonl \
    --optimizers sam,gsam,wsam,friendly_sam,vasso
python generalization.py --label-noise 0.6 0.8 --seeds 5 --rho 0.3 --out digits.jsonl \
    --optimizers sam,wsam,friendly_sam,vasso,sam_quarter,sam_every_5
python generalization.py --label-noise 0.6 0.8 --seeds 5 --rho 0.5 1 --out digits.jsonl --optimizers asam
python generalization.py --label-noise 0.6 0.8 --seeds 5 --rho 0.5 --out digits.jsonl --optimizers sam_quarter
python generalization.py --label-noise 0.6 0.8 --seeds 5 --rho 0.2 --out digits.jsonl --optimizers sam_every_5
python generalization.py --label-noise 0.6 0.8 --seeds 5 --rho 0.05 0.1 --out digits.jsonl --optimizers looksam
python generalization.py --label-noise 0.6 0.8 --seeds 5 --rho 0.7 1 --out digits.jsonl --optimizers msam
python summary.py digits.jsonl --plot digits.png
