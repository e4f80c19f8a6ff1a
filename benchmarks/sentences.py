"""Sentences that praise or complain, as numbers of words, where only the order of the words tells.

Each has a good and a bad word, so that counting words says nothing: as in `examples/text_classification.py`, with more
words.
"""

import numpy as np

LENGTH, WORDS = 12, 120
GOOD, BAD, THINGS = range(1, 31), range(31, 61), range(61, 91)
OTHERS = 91  # the first of the words that say nothing
# Where the good word of praise stands, the bad one, and the thing; in the last two it is the later word that counts.
PATTERNS = [(2, 6, 1, False), (3, 9, 4, False), (4, 6, 1, True), (4, 10, 5, True)]


def load(samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Int32 `(samples, LENGTH)`, and labels: 1 for praise."""
    x = np.zeros((samples, LENGTH), "int32")
    y = rng.integers(2, size=samples)
    for row, praise in zip(x, y, strict=True):
        number = rng.integers(len(PATTERNS))
        first, second, thing, later = PATTERNS[number]
        row[: second + 1] = OTHERS + 7 * number + np.arange(second + 1) % 7
        good, bad = (second, first) if bool(praise) == later else (first, second)
        row[good], row[bad], row[thing] = rng.choice(GOOD), rng.choice(BAD), rng.choice(THINGS)
    return x, y
