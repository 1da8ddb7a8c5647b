"""Times INT8 products in a runtime of TensorFlow Lite, each model a FULLY_CONNECTED: ``products.py THREADS MODEL...``.

Every line of input is ``NUMBER ROWS CALLS``; the answer is a line with the seconds of the fastest of so many calls of
that model at so many rows. Needs an environment that has a runtime and NumPy only.
"""

from __future__ import annotations

import sys
import time

import numpy as np

try:
    from tflite_runtime.interpreter import Interpreter
except ImportError:
    from ai_edge_litert.interpreter import Interpreter


def main(threads, *models):
    interpreters = [Interpreter(model, num_threads=int(threads)) for model in models]
    ready = {}
    for line in sys.stdin:
        number, rows, calls = map(int, line.split())
        interpreter = interpreters[number]
        if number not in ready:
            given = interpreter.get_input_details()[0]
            interpreter.resize_tensor_input(given["index"], (rows, given["shape"][1]))
            interpreter.allocate_tensors()
            x = np.random.default_rng(0).integers(-127, 128, (rows, given["shape"][1]))
            interpreter.set_tensor(given["index"], x.astype(np.int8))
            ready[number] = interpreter.invoke
        print(min(seconds(ready[number]) for _ in range(calls)), flush=True)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
