"""The nodes that come with Weft: declarations only, about fifteen lines each.

Importing this package registers them all; it loads neither torch nor diffusers. What a node
computes lies under ``executor``.
"""

from nodes import conditioning, image, latent, loaders, mask, output, sampling

__all__ = ["conditioning", "image", "latent", "loaders", "mask", "output", "sampling"]
