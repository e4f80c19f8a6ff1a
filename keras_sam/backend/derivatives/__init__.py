"""Derivatives of functions of a model's weights: the same few functions in one module a backend.

differentiate(loss)            its value, gradient and products with its Hessian, as compiled functions
through_outputs(predict, middle)
                               products with J' M J: J is the Jacobian of what `predict(weights, batch)` gives, and
                               `middle(outputs, tangents, batch)` multiplies tangents with M
add(total, found, times)       total + times * found, of lists of tensors
gradient(function)             that of a scalar in the list of tensors it is given; it can be taken again
missing(error)                 whether an error says that there is no derivative

A loss is a scalar function of `(weights, batch)`. The products take `(weights, batch, vectors)`: tensors like the
weights, with one axis more in front, over the vectors; so do they return them.
"""
