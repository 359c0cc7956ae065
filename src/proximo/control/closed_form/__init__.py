"""The gradient of small networks in closed form, and what it was derived from."""
