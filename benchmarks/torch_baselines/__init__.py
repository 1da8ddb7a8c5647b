"""PyTorch as a yardstick, never a dependency: the same networks, points and steps as picopinn's own.

Every model is an engine of :class:`picopinn.Solver` (``engine.py``), so that points, directions, initial weights,
residuals and Adam are the solver's, for any problem:

* ``stacked.py``: float32, derivatives by automatic differentiation over automatic differentiation;
* ``taylor.py``: float32, value, slopes and curvatures carried forward (forward Laplacian, STDE);
* ``quantized.py``: float32 with fake quantization to 4x4 blocks, as a person writes it in PyTorch;
* ``exact.py``: fake quantization that follows docs/spec.md to the last bit, in float64.
"""
