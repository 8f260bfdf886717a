"""The one part of the build that setup.cfg cannot say: a C extension, left out where there is no compiler."""

import sys

from setuptools import Extension, setup

# Buffers came to the stable ABI with 3.11; from there on, one wheel serves every Python.
STABLE = sys.version_info >= (3, 11)

setup(
    ext_modules=[
        Extension(
            "ttbert.convert._pack",
            ["ttbert/convert/_pack.c"],
            extra_compile_args=["-O3"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE else [],
            py_limited_api=STABLE,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
