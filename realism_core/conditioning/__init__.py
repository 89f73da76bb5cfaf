"""What a face is to look like: 40 attributes, 19 regions, and how they reach a model."""
