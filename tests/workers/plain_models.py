"""Models as their users declare them, with nothing of keras_sam; for tests and for what loads their files."""

import keras


@keras.saving.register_keras_serializable(package="hand_over")
class Branches(keras.Model):
    """Its layers are made by the constructor."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.wide, self.normalize = keras.layers.Dense(4, activation="tanh"), keras.layers.BatchNormalization()
        self.heads = [keras.layers.Dense(units), keras.layers.Dense(units, activation="tanh")]

    def call(self, x, training=False):
        x = self.normalize(self.wide(x), training=training)
        return sum(head(x) for head in self.heads)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@keras.saving.register_keras_serializable(package="hand_over")
class Late(keras.Model):
    """Its layers and a weight are made by `build`, which keeps a method too."""

    def build(self, shape):
        self.dense = keras.layers.Dense(3)
        self.dense.build(shape)
        self.scale = self.add_weight(shape=(3,), initializer="ones", name="scale")
        self.rule = self.scaled

    def scaled(self, x):
        return self.dense(x) * self.scale

    def call(self, x):
        return self.rule(x)


@keras.saving.register_keras_serializable(package="hand_over")
class Classifier(keras.Model):
    """A functional model with a class and a constructor of its own."""

    def __init__(self, units=3, **kwargs):
        self.units = units
        inputs = keras.Input((6,))
        super().__init__(inputs, keras.layers.Dense(units)(keras.layers.Dense(4)(inputs)), **kwargs)

    def get_config(self):
        return {"units": self.units, "name": self.name}


def functional(model_class=keras.Model):
    inputs = {"x": keras.Input((6,), name="x")}
    x = keras.layers.BatchNormalization()(keras.layers.Dense(4)(inputs["x"]))
    return model_class(inputs, keras.layers.Dense(3)(x), name="network")


def sequential(model_class=keras.Sequential):
    return model_class([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(3)], name="network")


def sequential_without_input(model_class=keras.Sequential):
    return model_class([keras.layers.Dense(4), keras.layers.Dense(3)], name="network")
