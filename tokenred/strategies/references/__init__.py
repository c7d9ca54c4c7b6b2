"""With which earlier frame a frame is compared."""
