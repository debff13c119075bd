# SPDX-License-Identifier: Apache-2.0
"""`hsr ui`: a local web page that explores the latent spaces of one generator, or of two side by side.

- `explorer.py`: the images of a seed, moved along directions; knows nothing of pages.
- `page.py`: the controls, and how they are served.
- `command.py`: `hsr ui`.
"""
