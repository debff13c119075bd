# SPDX-License-Identifier: Apache-2.0
"""Preparation of data sets: from images of any kind and size to square PNGs of one size, in StyleGAN's layout.

- `settings.py`: how images are prepared.
- `inputs.py`: the images of a folder or zip, by one interface for all kinds of sets.
- `libraries.py`: the same for sets of Hugging Face `datasets` and torchvision.
- `labels.py`: classes from folders or from a CSV file.
- `picture.py`: one image, from its file to a PNG.
- `journal.py`: the images that are done so far, which survive a killed process.
- `packing.py`: the finished zip or folder.
- `report.py`: sentences on what was done.
- `prepare.py`: all of it in order.
- `command.py`: `hsr dataset`, and the preparation of images for `hsr train --resize`.
"""
