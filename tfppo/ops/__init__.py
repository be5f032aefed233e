"""Pure functions of tensors: masking, random numbers, distributions, divergences, returns and losses."""
