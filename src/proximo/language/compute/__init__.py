"""How a model is computed on this machine: type, threads, products, memory."""
