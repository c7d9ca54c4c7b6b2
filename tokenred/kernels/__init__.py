"""Pure tensor functions with shapes: no configs, no registry. Strategies call them."""
