"""JAX anywhere: loops of `jax.lax`, one time step after the other."""
