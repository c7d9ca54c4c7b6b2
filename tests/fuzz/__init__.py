"""Random damage, drawn from a seed, under which nothing may fail but by a sentence."""
