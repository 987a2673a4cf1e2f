"""Forward affine forms: bounds of regions with few free inputs, by the columns of those inputs."""
