"""Is an objective what its paper says? Gradients, reference losses and replays on the CPU."""
