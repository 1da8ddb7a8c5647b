"""Tells setuptools of packages and C kernels; all else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    cffi_modules=["kernels_c/ffi/build.py:ffi"],
    packages=[
        *find_packages("host"),  # found, so that none is forgotten; pyproject.toml finds in one folder only
        *find_packages("firmware", include=["ppn", "ppn.*"]),
        *find_packages(".", include=["pinta_model", "pinta_model.*"]),
        "picopinn.firmware",  # what a board is given: no Python package, but a folder of data
    ],
)
