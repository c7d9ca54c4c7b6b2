"""What a vision tower shows beside its features: attention, keys, pixels."""
