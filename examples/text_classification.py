"""SAM with embeddings and attention: praise or complaint, where only the order of the words tells.

Every sentence has a good and a bad word, so that counting words says nothing.
"""

import keras
import numpy as np
from keras import ops

import keras_sam

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

THINGS = ["soup", "film", "hotel", "train", "phone", "garden", "lecture", "jacket"]
GOOD = ["great", "lovely", "cheerful", "perfect", "charming", "fine"]
BAD = ["awful", "dull", "broken", "gloomy", "horrid", "poor"]
TEMPLATES = [  # the first word counts in the first two, the second word in the others
    "the {thing} was {first} and not {second}",
    "it is a {first} {thing} now though it was {second} before",
    "the {thing} was not {first} but {second}",
    "once it was a {first} {thing} but now it is {second}",
]
LENGTH, WIDTH = 12, 32


def sentence():
    """A sentence, and 1 if it is praise."""
    good, bad, template, swap = rng.choice(GOOD), rng.choice(BAD), rng.integers(len(TEMPLATES)), rng.integers(2)
    first, second = (bad, good) if swap else (good, bad)
    text = TEMPLATES[template].format(thing=rng.choice(THINGS), first=first, second=second)
    return text, int((first if template < 2 else second) == good)


texts, labels = zip(*(sentence() for _ in range(1500)), strict=True)
numbers = {word: number for number, word in enumerate(sorted({w for text in texts for w in text.split()}), start=1)}
x = np.zeros((len(texts), LENGTH), "int32")  # 0 fills up
for row, text in zip(x, texts, strict=True):
    words = text.split()
    row[: len(words)] = [numbers[word] for word in words]
y = np.array(labels)


class Classifier(keras_sam.SAMModel, keras.Model):
    """Embeddings of words and of positions, one layer of attention, and the mean over the words."""

    def __init__(self):
        super().__init__()
        self.words = keras.layers.Embedding(len(numbers) + 1, WIDTH)
        self.positions = keras.layers.Embedding(LENGTH, WIDTH)
        self.attention = keras.layers.MultiHeadAttention(num_heads=4, key_dim=WIDTH // 4)
        self.norm = keras.layers.LayerNormalization()
        self.hidden = keras.layers.Dense(64, activation="relu")
        self.out = keras.layers.Dense(1, activation="sigmoid")

    def call(self, numbers):
        """The probability of praise."""
        h = self.words(numbers) + self.positions(ops.arange(LENGTH))
        h = self.norm(h + self.attention(h, h))
        return self.out(ops.mean(self.hidden(h), axis=1))


model = Classifier()
# Only the rows of words in the batch have a gradient; SAM's norm runs over the whole table all the same.
optimizer = keras_sam.SAMOptimizer(keras.optimizers.Adam(0.003), rho=0.05)
model.compile(optimizer, loss="binary_crossentropy", metrics=["accuracy"])
history = model.fit(x[:1200], y[:1200], batch_size=50, epochs=6, verbose=0).history

accuracy = model.evaluate(x[1200:], y[1200:], batch_size=50, verbose=0, return_dict=True)["accuracy"]
print(f"300 test sentences, accuracy {accuracy:.3f}, sharpness {history['sharpness'][-1]:.4f}")
