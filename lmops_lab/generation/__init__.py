"""Pictures: any diffusers pipeline, paired seeds, grids and a store that never makes the same picture twice."""
