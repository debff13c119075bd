# SPDX-License-Identifier: Apache-2.0
"""`hsr export`: a trained generator as a file that runs without this package.

command   from the options to the files, each of them run and compared before it is written
graph     the network as such a file has it: its inputs, its output and what it says of itself
formats   the kinds of files: ONNX, exported programs and compiled packages of PyTorch
"""

from .command import export

__all__ = ["export"]
