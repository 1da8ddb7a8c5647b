"""Runs ``.tflite`` models, in an environment that has a runtime of TensorFlow Lite and NumPy only.

    run.py OUT.npz X.npy REPEATS MODEL...    values of each model at X (n, D) and the processor's seconds of a call

Reals are quantized and dequantized here, by what the model says of its input and output; that is not timed.
"""

from __future__ import annotations

import sys
import time

import numpy as np

try:
    from tflite_runtime.interpreter import Interpreter
except ImportError:
    from ai_edge_litert.interpreter import Interpreter


def opened(path, shape):
    """An interpreter of one thread for inputs of a shape."""
    interpreter = Interpreter(path, num_threads=1)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
    interpreter.allocate_tensors()
    return interpreter


def stored(x, details):
    scale, zero = details["quantization"]
    if details["dtype"] != np.int8:
        return x.astype(details["dtype"])
    return np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)


def real(y, details):
    scale, zero = details["quantization"]
    return (y.astype(float) - zero) * scale if details["dtype"] == np.int8 else y.astype(float)


def main(out, points, repeats, *models):
    x, results = np.load(points), {}
    interpreters = [opened(model, x.shape) for model in models]
    for number, interpreter in enumerate(interpreters):
        given, answered = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.set_tensor(given["index"], stored(x, given))
        interpreter.invoke()
        results[f"values{number}"] = real(interpreter.get_tensor(answered["index"]), answered)
        results[f"operators{number}"] = np.array([op["op_name"] for op in interpreter._get_ops_details()])
    seconds = np.empty((len(models), int(repeats)))
    for repeat in range(int(repeats)):
        for number, interpreter in enumerate(interpreters):
            start = time.process_time()
            interpreter.invoke()
            seconds[number, repeat] = time.process_time() - start
    np.savez(out, seconds=seconds, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
