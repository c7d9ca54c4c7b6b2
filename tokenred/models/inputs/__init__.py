"""From pixels and questions to what a model reads."""
