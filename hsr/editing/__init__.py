# SPDX-License-Identifier: Apache-2.0
"""What a trained generator's latent space is good for: directions, edits along them, and mixed styles.

- `layers.py`: layers by the size of what they change: coarse, middle, fine, or by number.
- `directions.py`: a direction in W or in a layer's styles, and the file of directions of a generator.
- `projected.py`: latent codes from files.
- `labelling.py`: the classifier that labels images with attributes.
- `samples.py`: latent codes and the attributes of their images, which directions are found in.
- `ganspace.py`, `sefa.py`, `interfacegan.py`, `stylespace.py`: the methods that find directions.
- `effects.py`: what moving along a direction does to attributes.
- `search.py`: `hsr directions`.
- `rendering.py`, `animation.py`: the images of codes and styles, and files in which they move.
- `edit.py`: `hsr edit`; `mix.py`: `hsr mix`.
"""

from .directions import Direction, Directions, read_directions, write_directions

__all__ = ["Direction", "Directions", "read_directions", "write_directions"]
