"""FastV, arXiv 2403.06764, as a preset: all of its parts are tokenred's own."""
