"""Experiments that show what each mechanism of PPO does, run on this very code: `proximo lab run cliff`.

An experiment is one file of `proximo.lab.experiments`, and its text one of `proximo/lab/texts`. It says what it expects
and measures it over seeds; a verdict is computed from the numbers, whatever was expected.
"""
