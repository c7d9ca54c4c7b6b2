"""Which tokens pipelines keep, and what is left of the others, compared without labels."""
