"""How the tiny Stable Diffusion in ``models/checkpoints/weft-tiny.safetensors`` was made."""
