"""realign: make text-to-image diffusion models do what the prompt says."""

__version__ = "0.1.0"
