"""The chaos suite: real workers under load on a real Postgres, faults injected, an independent checker afterwards.

``python -m tests.chaos --help`` says how it is run; docs/reliability.md says what it found.
"""
