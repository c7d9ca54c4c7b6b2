"""Which tokens pipelines keep, and what they cover: compared without labels."""
