"""Prompts -> responses -> rewards -> update: a language model trained from human judgement."""
