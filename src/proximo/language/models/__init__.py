"""Models and tokenizers: loaded, tried out, and written as plain folders."""
