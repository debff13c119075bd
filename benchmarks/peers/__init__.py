# SPDX-License-Identifier: Apache-2.0
"""Somebody's own checkout of these operators, imported from the folder that the user names, and timed beside ours.

checkout   finds the operators in a folder and imports them, in a process that nothing of ours stands in for them in
families   what each family of projects calls its operators, and how it passes their arguments

On the CPU these operators are the project's own plain PyTorch: their compiled extensions are for GPUs.
"""
