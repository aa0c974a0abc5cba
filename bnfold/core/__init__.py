"""What folding is: the graph view, the affine map, the kernel arithmetic, verdicts. NumPy and stdlib only."""
