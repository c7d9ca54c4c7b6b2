"""The code that runs on the GPU; importing it needs Triton."""
