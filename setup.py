"""Tells setuptools of the C kernels; all else is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["kernels_c/ffi/build.py:ffi"])
