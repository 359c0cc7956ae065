"""Policies and their parts: networks, memory, normalisers, and the device they are on."""
