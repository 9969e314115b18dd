"""What JAX is told about this machine: the mesh, memory, caches."""
