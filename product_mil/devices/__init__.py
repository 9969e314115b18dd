"""How JAX uses this machine: the mesh of devices, memory, the cache of compiled programs."""
