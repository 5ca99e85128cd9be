"""From noise to latents: schedules, samplers, noise, guidance, and the batched forward pass.

Everything here is torch and arithmetic: no files, no nodes, no devices of its own choosing.
``ksampler.sample`` is the door for nodes, ``forward.evaluate`` the one for the engine. Imports
nothing but the vocabulary.
"""
