"""Aggregators: from a coupling to the linear map that updates the anchors."""
