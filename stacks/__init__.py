"""The stacks of the example."""
