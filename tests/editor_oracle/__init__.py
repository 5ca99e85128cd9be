"""Compares the conversion of editor files with what ComfyUI's own frontend makes of them."""
