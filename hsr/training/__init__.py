# SPDX-License-Identifier: Apache-2.0
"""The training loop with its checkpoints, sample grids, metrics, logs, progress display and summary."""
