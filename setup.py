"""Tells setuptools of packages and C kernels; all else is in pyproject.toml."""

from concurrent.futures import ThreadPoolExecutor

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext


class BuildKernels(build_ext):
    """Compiles the C files side by side: three of them are the whole kernels, and take most of an installation."""

    def build_extension(self, ext):
        one_after_the_other = self.compiler.compile

        def side_by_side(sources, **options):
            with ThreadPoolExecutor() as pool:
                objects = pool.map(lambda source: one_after_the_other([source], **options), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = side_by_side
        super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildKernels},
    cffi_modules=["kernels_c/ffi/build.py:ffi"],
    packages=[
        *find_packages("host"),  # found, so that none is forgotten; pyproject.toml finds in one folder only
        *find_packages("firmware", include=["ppn", "ppn.*"]),
        *find_packages(".", include=["pinta_model", "pinta_model.*"]),
        "picopinn.firmware",  # what a board is given: no Python package, but a folder of data
    ],
)
