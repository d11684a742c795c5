"""Fuzzing: each reader of foreign bytes with a target that says what must hold of it.

``targets`` lists them, ``test_fuzz`` runs them over the kept inputs in ``corpus/`` and over what
Hypothesis makes; ``python -m tests.fuzz`` lets atheris look for more, and keeps what is new.
"""
