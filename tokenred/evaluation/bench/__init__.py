"""What pipelines cost on a model, measured: time to the first token, memory, and their parts."""
