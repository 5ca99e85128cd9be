"""Does Weft make what ComfyUI makes? See README.md beside this file."""
