"""The model families: one file a family, and the bases that they share."""
